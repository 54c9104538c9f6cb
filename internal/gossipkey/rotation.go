package gossipkey

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// Settle is how long all must have sent with the new key before the old one is
	// removed: what was sent before has arrived (docs/design/gossip-keys.md).
	Settle = 10 * time.Second
	// Memory is for how long a speaker still counts that is not heard any more, so that
	// no step is taken while one is lost for a moment (docs/design/gossip-keys.md).
	Memory = 30 * time.Second
)

// A Speaker is what is known of the speaker of a node.
type Speaker struct {
	Node string
	// Idle says that it uses no key: it waits for one, or has left.
	Idle bool
	// Use is what it said last; nothing if it does not say.
	Use Use
}

// A State is the gossip Secret and what people ask of it.
type State struct {
	// Exists is false while there is no such Secret.
	Exists bool
	// Version is that of the object.
	Version string
	Secret
	// Rotate asks for another key, unless Rotated says that this was done.
	Rotate, Rotated string
	// Without are the nodes for which a change does not wait.
	Without []string
	// Known are the keys whose texts are remembered.
	Known []ID
}

// A Step is one change of the Secret.
type Step uint8

// Steps.
const (
	// Stay changes nothing.
	Stay Step = iota
	// Create makes a Secret with a new key.
	Create
	// Introduce adds a new key as the next one.
	Introduce
	// Promote sends with the next key, and accepts the one before.
	Promote
	// Retire removes the one before.
	Retire
	// Regain puts the key back that speakers use, and makes the one that was written in
	// its place the next.
	Regain
	// Bridge makes the key, or a new one, the next, and names the keys that speakers use
	// as lost.
	Bridge
	// Admit names the keys of speakers that have come back as lost, so that they send
	// with the one that all others use.
	Admit
	// Narrow forgets the lost keys that nobody sends with any more.
	Narrow
)

// String names the step.
func (s Step) String() string {
	return [...]string{"stay", "create", "introduce", "promote", "retire", "regain", "bridge", "admit", "narrow"}[s]
}

// A Reason says why a step waits for a speaker.
type Reason uint8

// Reasons.
const (
	// Unreported: it does not say which keys it uses.
	Unreported Reason = iota
	// Behind: it has not seen the Secret as it is.
	Behind
	// Refuses: it does not accept the new key yet.
	Refuses
	// Clings: it does not send with the new key yet.
	Clings
)

// String says it in words.
func (r Reason) String() string {
	return [...]string{"does not say which keys it uses", "has not seen the Secret as it is now", "does not accept the new key", "still sends with the old key"}[r]
}

// A Wait is a speaker that a step waits for.
type Wait struct {
	Node   string
	Reason Reason
}

// A Verdict is what to do.
type Verdict struct {
	Step Step
	// Lost are the keys to be named so, and Regain is the one to
	// put back.
	Lost   []ID
	Regain ID
	// Waits are whom the next step waits for, by node.
	Waits []Wait
	// Again is when to decide anew although nothing has changed; zero for never.
	Again time.Time
}

// A Rotation remembers which speakers live. The zero Rotation knows of none.
type Rotation struct {
	seen map[string]sighting
	// calm is since when all send with the key, which is of; zero while they do not.
	calm time.Time
	of   Key
}

type sighting struct {
	Speaker
	at time.Time
}

// Decide says what to do next. Speakers are those that live, or say themselves that they
// use no key.
func (r *Rotation) Decide(now time.Time, is State, speakers []Speaker) Verdict {
	var v Verdict
	counted := r.count(now, is, speakers, &v)
	stray := strays(is, counted)
	missing := func(why Reason, done func(Use) bool) bool {
		for _, s := range counted {
			switch {
			case s.Use.Sends == "":
				v.Waits = append(v.Waits, Wait{s.Node, Unreported})
			case is.Exists && s.Use.Seen != is.Version:
				v.Waits = append(v.Waits, Wait{s.Node, Behind})
			case !done(s.Use):
				v.Waits = append(v.Waits, Wait{s.Node, why})
			}
		}
		return len(v.Waits) > 0
	}
	sends := func(k Key) func(Use) bool { return func(u Use) bool { return u.Sends == k.ID() } }
	used := func(k Key) bool {
		return !k.None() && slices.ContainsFunc(counted, func(s Speaker) bool { return sends(k)(s.Use) })
	}
	calm := r.calm
	r.calm = time.Time{}
	lost := order(slices.Concat(is.Lost, stray), counted)
	switch {
	case len(stray) == 1 && slices.Contains(is.Known, stray[0]) && !is.Key.None() && !used(is.Key) && len(is.Lost) == 0:
		v.Step, v.Regain = Regain, stray[0]
	case len(stray) > 0 && !used(is.Key):
		v.Step, v.Lost = Bridge, lost
	case len(stray) > 0:
		switch {
		case missing(Refuses, func(u Use) bool { return u.Takes(is.Key.ID()) }):
		case !is.Previous.None() && missing(Clings, func(u Use) bool { return u.Sends == is.Key.ID() || slices.Contains(stray, u.Sends) }):
		default:
			v.Step, v.Lost = Admit, lost
		}
	case is.Key.None() && is.Next.None():
		switch {
		case missing(Unreported, func(Use) bool { return true }):
		case len(counted) > 0:
			v.Step, v.Lost = Bridge, is.Lost
		default:
			v.Step = Create
		}
	case is.Key.None() && len(lost) > 1 && len(inUse(lost, counted)) < len(lost):
		if !missing(Clings, func(Use) bool { return true }) && r.rest(now, calm, is.Key, &v) {
			v.Step, v.Lost = Narrow, inUse(lost, counted)
		}
	case is.Key.None():
		if !missing(Refuses, func(u Use) bool { return u.Takes(is.Next.ID()) }) {
			v.Step = Promote
		}
	case !is.Previous.None() || len(is.Lost) > 0:
		if missing(Clings, sends(is.Key)) {
			break
		}
		if r.rest(now, calm, is.Key, &v) {
			v.Step = Retire
		}
	case !is.Next.None():
		if !missing(Refuses, func(u Use) bool { return u.Takes(is.Next.ID()) }) {
			v.Step = Promote
		}
	case is.Rotate != "" && is.Rotate != is.Rotated:
		v.Step = Introduce
	}
	return v
}

// rest reports whether nothing has been sent with another key than that for long enough.
func (r *Rotation) rest(now, since time.Time, k Key, v *Verdict) bool {
	if r.calm = since; since.IsZero() || r.of != k {
		r.calm, r.of = now, k
	}
	due := r.calm.Add(Settle)
	if now.Before(due) {
		v.until(due)
	}
	return !now.Before(due)
}

// inUse returns those of the keys that speakers send with.
func inUse(ids []ID, speakers []Speaker) []ID {
	return slices.DeleteFunc(slices.Clone(ids), func(id ID) bool {
		return !slices.ContainsFunc(speakers, func(s Speaker) bool { return s.Use.Sends == id })
	})
}

// order puts the keys in order, those that more speakers accept first: whoever has two
// of them is to send with the first.
func order(ids []ID, speakers []Speaker) []ID {
	takers := map[ID]int{}
	for _, s := range speakers {
		for _, id := range s.Use.Accepts {
			takers[id]++
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return cmp.Or(takers[b]-takers[a], cmp.Compare(a, b)) })
	return slices.Compact(ids)
}

// count returns the speakers that count, by node: those that live, or did a moment ago.
func (r *Rotation) count(now time.Time, is State, speakers []Speaker, v *Verdict) []Speaker {
	if r.seen == nil {
		r.seen = map[string]sighting{}
	}
	for _, s := range speakers {
		if s.Idle {
			delete(r.seen, s.Node)
		} else {
			r.seen[s.Node] = sighting{s, now}
		}
	}
	var out []Speaker
	for _, node := range slices.Sorted(maps.Keys(r.seen)) {
		s := r.seen[node]
		over := s.at.Add(Memory)
		switch {
		case s.at.Before(now) && !now.Before(over):
			delete(r.seen, node)
			continue
		case s.at.Before(now):
			v.until(over)
		}
		if !slices.Contains(is.Without, node) {
			out = append(out, s.Speaker)
		}
	}
	return out
}

// until asks to decide anew at that time, or before.
func (v *Verdict) until(at time.Time) {
	if v.Again.IsZero() || at.Before(v.Again) {
		v.Again = at
	}
}

// strays returns the keys that speakers may send with and that the Secret does not name.
// Who has seen the Secret uses what it says; while there is none, what a speaker accepts
// is what others of them may send with.
func strays(is State, speakers []Speaker) []ID {
	var out []ID
	for _, s := range speakers {
		if is.Exists && s.Use.Seen != is.Version {
			continue
		}
		for _, id := range s.Use.Accepts {
			if id != is.Key.ID() && id != is.Next.ID() && id != is.Previous.ID() && !slices.Contains(is.Lost, id) {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// most is how many nodes a sentence lists.
const most = 5

// Describe names the speakers that a change waits for, and why.
func Describe(waits []Wait) string {
	waits = slices.SortedFunc(slices.Values(waits), func(a, b Wait) int { return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Node, b.Node)) })
	var b strings.Builder
	for i, w := range waits {
		switch {
		case i == most:
			b.WriteString(" and others")
			return b.String()
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(w.Node + " " + w.Reason.String())
	}
	return b.String()
}

// Apply returns the Secret after a step. Fresh is a new key, and regained the one that a
// Regain puts back.
func Apply(is State, v Verdict, fresh, regained Key) State {
	is.Exists = true
	switch v.Step {
	case Create:
		is.Key = fresh
	case Introduce:
		is.Next, is.Rotated = fresh, is.Rotate
	case Promote:
		is.Previous, is.Key, is.Next = is.Key, is.Next, Key{}
	case Retire:
		is.Previous, is.Lost, is.Without = Key{}, nil, nil
	case Regain:
		is.Next, is.Previous, is.Key = is.Key, Key{}, regained
	case Bridge:
		for _, k := range []Key{is.Key, is.Next, fresh} {
			if !k.None() {
				is.Next = k
				break
			}
		}
		is.Key, is.Previous, is.Lost = Key{}, Key{}, v.Lost
	case Admit, Narrow:
		is.Lost = v.Lost
	}
	return is
}
