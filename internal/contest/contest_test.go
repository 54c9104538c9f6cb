package contest_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/contest"
)

var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// A duel is an object that we and another writer write, in virtual time.
type duel struct {
	t    *testing.T
	now  time.Time
	log  contest.Log
	want uint64
	// shows is what the object shows, others what others decide there.
	shows, others uint64
	// undo is what the other writer puts in the place of what we wrote, and after how
	// long; it does nothing while undo is 0.
	undo  uint64
	after time.Duration
	due   time.Time // when it writes
	again time.Time // when we look again

	writes    []time.Time
	lost      []time.Time // the writes that were undone
	contested bool
	told      []string // each change of contested
}

// look decides, and writes if that is the decision.
func (d *duel) look() {
	v := d.log.Decide(d.now, contest.Seen{Want: d.want, Missing: d.shows != d.want, Others: d.others})
	d.again = v.Again
	if v.Contested != d.contested {
		d.contested = v.Contested
		d.told = append(d.told, fmt.Sprintf("%v %v", d.now.Sub(epoch), v.Contested))
	}
	if v.Write && d.shows == d.want {
		d.t.Errorf("at %v it writes what is there", d.now.Sub(epoch))
	}
	if v.Write {
		d.writes = append(d.writes, d.now)
		d.shows = d.want
		d.log.Wrote(d.now, d.want)
		if d.undo != 0 {
			d.due = d.now.Add(d.after)
		}
		d.look()
	}
}

// passes lets time go on.
func (d *duel) passes(span time.Duration) {
	for end := d.now.Add(span); ; {
		next := end
		for _, t := range []time.Time{d.due, d.again} {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		if next.After(d.now) {
			d.now = next
		}
		if !d.now.Before(end) {
			return
		}
		if !d.due.IsZero() && !d.now.Before(d.due) {
			d.due = time.Time{}
			if d.undo != 0 && d.shows == d.want {
				d.shows = d.undo
				d.lost = append(d.lost, d.writes[len(d.writes)-1])
			}
		}
		d.look()
	}
}

// wrote fails the test unless there were so many writes since it was last asked.
func (d *duel) wrote(what string, want int) {
	d.t.Helper()
	if len(d.writes) != want {
		d.t.Errorf("%s: %d writes, want %d: %v", what, len(d.writes), want, d.writes)
	}
	d.writes = d.writes[len(d.writes):]
}

func (d *duel) tells(want ...string) {
	d.t.Helper()
	if fmt.Sprint(d.told) != fmt.Sprint(want) {
		d.t.Errorf("it tells %v, want %v", d.told, want)
	}
	d.told = nil
}

func newDuel(t *testing.T) *duel { return &duel{t: t, now: epoch, want: 1, after: time.Millisecond} }

func TestThreeWritesAreUndoneAndThenItIsContested(t *testing.T) {
	d := newDuel(t)
	d.look()
	d.passes(time.Hour)
	d.wrote("nobody else writes", 1)
	d.shows, d.undo = 9, 9
	d.look()
	d.passes(59 * time.Second)
	d.wrote("a writer comes", 3)
	d.tells("1h0m0.003s true")
	// It looks again after a minute, and then ever more rarely.
	d.passes(3 * time.Hour)
	d.wrote("it stays, after 1, 2, 4, 8 and then 16 minutes each", 4+10)
	d.tells()
	// The writer has gone, which is found out when we look again.
	d.undo = 0
	d.passes(16 * time.Minute)
	d.wrote("it goes", 1)
	if len(d.told) != 1 || d.contested {
		t.Errorf("it tells %v", d.told)
	}
	d.passes(48 * time.Hour)
	d.wrote("all is calm", 0)
}

func TestAChangeOfTheObjectIsAReasonToLookAgain(t *testing.T) {
	for what, change := range map[string]func(*duel){
		"others decide something else": func(d *duel) { d.others++ },
		"we want something else":       func(d *duel) { d.want++ },
		"it shows what we want":        func(d *duel) { d.shows = d.want },
	} {
		d := newDuel(t)
		d.undo = 9
		d.look()
		d.passes(10 * time.Second)
		d.wrote(what, 3)
		d.undo = 0
		change(d)
		d.look()
		d.passes(49 * time.Second)
		if want := what == "it shows what we want"; len(d.writes) > 0 || d.contested == want {
			t.Errorf("%s, too soon for a fourth write: %v, contested %v", what, d.writes, d.contested)
		}
		d.passes(10 * time.Second)
		if d.contested || d.shows != d.want {
			t.Errorf("%s: it shows %d, want %d; contested %v", what, d.shows, d.want, d.contested)
		}
	}
}

func TestWhatIsUndoneNowAndThenIsNotContested(t *testing.T) {
	d := newDuel(t)
	d.undo, d.after = 9, 21*time.Second
	d.look()
	d.passes(time.Hour)
	d.tells()
	if n := len(d.writes); n < 160 {
		t.Errorf("%d writes in an hour", n)
	}
}

func TestWhatWeWantAnewIsNoContest(t *testing.T) {
	d := newDuel(t)
	for range 1000 {
		d.want++
		d.look()
		d.passes(time.Millisecond)
	}
	d.wrote("we want something else each time", 1000)
	d.tells()
}

func TestASlowWriterIsContestedAllTheTime(t *testing.T) {
	d := newDuel(t)
	d.undo, d.after = 9, 15*time.Second
	d.look()
	d.passes(24 * time.Hour)
	d.tells("45s true")
	if n := len(d.writes); n < 80 || n > 100 {
		t.Errorf("%d writes in a day", n)
	}
	d.undo = 0
	d.passes(contest.Longest + 30*time.Second)
	if d.contested || d.shows != d.want {
		t.Errorf("it has gone, and we tell %v and show %d", d.contested, d.shows)
	}
}

// Whatever the other writers do, however many, and whatever we want: a write follows three
// that were undone only after a minute, it is contested while nothing is written though
// something is missing, and once they stop all comes to rest as we want it.
func TestNoWritersMakeUsWriteMoreOrLeaveUsContested(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newDuel(t)
		d.look()
		for range 200 {
			switch n := r.IntN(10); {
			case n < 3:
				d.undo, d.after = uint64(100+r.IntN(3)), time.Duration(r.IntN(30_000))*time.Millisecond
			case n < 4:
				d.undo = 0
			case n < 6:
				d.want = uint64(1 + r.IntN(3))
			case n < 7:
				d.others++
			case n < 9 && d.shows == d.want:
				d.shows = uint64(100 + r.IntN(3))
				d.lost = append(d.lost, d.writes[len(d.writes)-1])
			}
			d.look()
			if d.shows != d.want && !d.contested {
				t.Fatalf("seed %d: something is missing and nobody is told", seed)
			}
			d.passes(time.Duration(r.IntN(20_000)) * time.Millisecond)
		}
		for i := 3; i < len(d.lost); i++ {
			if at := d.lost[i].Sub(d.lost[i-3]); at < contest.Window {
				t.Fatalf("seed %d: four writes within %v were undone", seed, at)
			}
		}
		d.undo = 0
		d.passes(contest.Longest + 2*contest.Window)
		if d.shows != d.want || d.contested {
			t.Fatalf("seed %d: it shows %d, want %d; contested %v", seed, d.shows, d.want, d.contested)
		}
	}
}

// A bout is writes that are undone one after the other, by hand.
type bout struct {
	t   *testing.T
	log contest.Log
	now time.Time
}

// decides fails the test unless the verdict after a while is as wanted.
func (b *bout) decides(after time.Duration, missing bool, others uint64, want contest.Decision) {
	b.t.Helper()
	b.now = b.now.Add(after)
	if got := b.log.Decide(b.now, contest.Seen{Want: 1, Missing: missing, Others: others}); got != want {
		b.t.Errorf("after %v: %+v, want %+v", b.now.Sub(epoch), got, want)
	}
}

// undone writes, and finds each write undone after that time. It is still told to write
// after the last but one.
func (b *bout) undone(others uint64, after ...time.Duration) {
	b.t.Helper()
	b.decides(0, true, others, contest.Decision{Write: true})
	for i, d := range after {
		b.log.Wrote(b.now, 1)
		if i < len(after)-1 {
			b.decides(d, true, others, contest.Decision{Write: true})
		} else {
			b.now = b.now.Add(d)
		}
	}
}

// stops fails the test unless it is contested now, and looked at again after a pause.
func (b *bout) stops(others uint64, pause time.Duration) {
	b.t.Helper()
	b.decides(0, true, others, contest.Decision{Contested: true, Again: b.now.Add(pause)})
}

func TestWhatStaysForLongerThanItTookToBeUndoneIsCalm(t *testing.T) {
	const quick = time.Millisecond
	for _, c := range []struct {
		undone []time.Duration
		calm   time.Duration
	}{
		{[]time.Duration{quick, quick, quick}, contest.Calm},
		{[]time.Duration{4 * time.Second, quick, quick}, 8 * time.Second},
		{[]time.Duration{quick, 4 * time.Second, quick}, 8 * time.Second},
		// Who takes a minute is none that we fight with.
		{[]time.Duration{contest.Window, quick, quick, quick}, contest.Calm},
	} {
		b := &bout{t: t, now: epoch}
		b.undone(0, c.undone...)
		b.stops(0, contest.Window)
		over := b.now.Add(c.calm)
		b.decides(0, false, 0, contest.Decision{Contested: true, Again: over})
		b.decides(c.calm-1, false, 0, contest.Decision{Contested: true, Again: over})
		b.decides(1, false, 0, contest.Decision{})
	}
}

func TestAFightIsRememberedForAWhile(t *testing.T) {
	const quick = time.Millisecond
	for _, c := range []struct {
		after, pause time.Duration
	}{
		{3*contest.Window - quick, 2 * contest.Window}, // found undone after Window and twice the pause of the first
		{3*contest.Window - quick + 1, contest.Window},
	} {
		b := &bout{t: t, now: epoch}
		b.undone(0, quick, quick, quick)
		b.stops(0, contest.Window)
		b.decides(0, false, 0, contest.Decision{Contested: true, Again: b.now.Add(contest.Calm)})
		b.decides(contest.Calm, false, 0, contest.Decision{})
		b.now = b.now.Add(c.after - contest.Calm)
		b.undone(5, quick, quick, quick)
		b.stops(5, c.pause)
		if c.pause == contest.Window {
			continue
		}
		// Once it has stayed it is written again as soon as there is room, whenever we
		// were to look again.
		b.decides(0, false, 5, contest.Decision{Contested: true, Again: b.now.Add(contest.Calm)})
		b.decides(contest.Calm, false, 5, contest.Decision{})
		b.decides(contest.Window, true, 5, contest.Decision{Write: true})
	}
}

func TestWhoIsLookedAtLateIsContestedStill(t *testing.T) {
	b := &bout{t: t, now: epoch}
	b.undone(0, time.Millisecond, time.Millisecond, time.Millisecond)
	b.stops(0, contest.Window)
	b.decides(time.Hour, true, 0, contest.Decision{Write: true, Contested: true})
}
