// Package contest decides for how long to insist on what we write to an object when
// another writer keeps undoing it.
//
// Two writers that want different things of one field never come to an end: each
// answers the other's write with its own, as fast as the API server allows. Somebody
// has to stop, and say so. A write counts as undone when what it wrote is there no more
// though we want nothing else; that others write beside it does not count. Once [Limit]
// writes that were made within a [Window] have been undone we stop, and look again:
//
//   - when the object changes: what others decide there, or what we want of it;
//   - after a while, as the other writer may have stopped, which does not show while
//     we have stopped, too. Each time in vain doubles the while, up to [Longest].
//
// Whatever happens, a write follows Limit that were undone only after the first of these
// is a Window old. It is contested from the moment when we stop until what we wrote has
// stayed for a while ([Calm]), so that this does not come and go with each attempt.
package contest

import "time"

// What we allow ourselves.
const (
	// Limit is how many writes within a Window may be undone.
	Limit = 3
	// Window is the time in which they count (docs/design/contest.md).
	Window = time.Minute
	// Calm is for how long what we wrote must have stayed before it is contested no
	// more: twice as long as it took to undo it, but at least this long (docs/design/contest.md).
	Calm = 5 * time.Second
	// Longest is the longest while until we look again (docs/design/contest.md).
	Longest = 16 * time.Minute
)

// A Log is what became of our writes of one thing. The zero Log has none.
type Log struct {
	wrote time.Time // the last write, unless it has been counted as undone
	want  uint64    // what it was of
	fight *fight    // nil while nothing was undone lately
}

// A fight is about what was undone lately.
type fight struct {
	undone [Limit]time.Time // when the last writes that were undone were made, oldest first
	last   time.Time        // when the last was found undone
	// told is set from when we stop until all is calm; held while we write nothing.
	told, held bool
	is         Seen          // how it was when we stopped
	again      time.Time     // when we look again
	pause      time.Duration // the while until then
	calm       time.Time     // since when what we want is there
	took       time.Duration // the longest that it took to undo a write, within a Window
}

// A Seen is how the object is.
type Seen struct {
	// Want is a digest of what it is to show.
	Want uint64
	// Missing is set while it shows something else.
	Missing bool
	// Others is a digest of what others decide there.
	Others uint64
}

// A Decision is what to do.
type Decision struct {
	// Write says to write what is missing.
	Write bool
	// Contested says that another writer insists on something else.
	Contested bool
	// Again is when to decide anew although nothing has changed; zero for never.
	Again time.Time
}

// Wrote takes note of a write that was carried out.
func (l *Log) Wrote(now time.Time, want uint64) { l.wrote, l.want = now, want }

// Quiet reports whether nothing was undone lately: then nothing is to be decided while
// the object shows what we want.
func (l *Log) Quiet() bool { return l.fight == nil }

// Decide says what to do.
func (l *Log) Decide(now time.Time, is Seen) Decision {
	if f := l.fight; f != nil && !f.told && now.Sub(f.last) > Window+2*f.pause {
		l.fight = nil // long over
	}
	if !is.Missing {
		return l.fight.shown(now)
	}
	if !l.wrote.IsZero() && l.want == is.Want {
		if l.fight == nil {
			l.fight = &fight{}
		}
		l.fight.lose(now, l.wrote, is)
	}
	l.wrote = time.Time{}
	return l.fight.missing(now, is)
}

// lose takes note that a write was undone.
func (f *fight) lose(now, wrote time.Time, is Seen) {
	copy(f.undone[:], f.undone[1:])
	f.undone[Limit-1], f.last = wrote, now
	if took := now.Sub(wrote); took < Window {
		f.took = max(f.took, took)
	}
	if f.told { // this attempt was in vain
		f.stop(now, is)
	}
}

// stop has us look again after a while, twice as long as the last.
func (f *fight) stop(now time.Time, is Seen) {
	f.pause = min(max(2*f.pause, Window), Longest)
	f.told, f.held, f.is, f.again = true, true, is, now.Add(f.pause)
}

// missing says what to do while the object shows something else than what we want.
func (f *fight) missing(now time.Time, is Seen) Decision {
	if f == nil {
		return Decision{Write: true}
	}
	f.calm = time.Time{}
	switch {
	case f.held && f.is != is:
		f.held, f.pause = false, 0
	case !now.Before(f.again):
		f.held = false
	}
	free := f.undone[0].Add(Window) // when there is room for another
	full := now.Before(free)
	switch {
	case f.held:
		return Decision{Contested: true, Again: f.again}
	case full && f.told: // the object has changed, too soon
		return Decision{Contested: true, Again: free}
	case full:
		f.stop(now, is)
		return Decision{Contested: true, Again: f.again}
	default:
		return Decision{Write: true, Contested: f.told}
	}
}

// shown says what to do while the object shows what we want.
func (f *fight) shown(now time.Time) Decision {
	if f == nil || !f.told {
		return Decision{}
	}
	if f.calm.IsZero() {
		f.calm = now
	}
	if over := f.calm.Add(max(Calm, 2*f.took)); now.Before(over) {
		return Decision{Contested: true, Again: over}
	}
	f.told, f.held = false, false
	return Decision{}
}
