package election

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Reply is what a segment says about a suspect.
type Reply uint8

// Replies.
const (
	// Unknown: there is no segment shared with the suspect to ask on, or the
	// question could not be sent.
	Unknown Reply = iota
	// Silent: its own address was asked for and no station answered.
	Silent
	// Answers: its kernel answers, its speaker does not.
	Answers
	// Speaks: its speaker answers for an address that it claims.
	Speaks
)

// String returns the verdict in one word.
func (v Reply) String() string { return [...]string{"unknown", "silent", "answers", "speaks"}[v] }

// A SegmentQuestion asks a suspect, on the segment of one of our interfaces, for
// an address: its kernel for one that it has there, its speaker for one that it
// claims.
type SegmentQuestion struct {
	Interface int
	Target    netip.Addr
	MAC       lb.MAC
}

// Shared yields what the kernel of a suspect can be asked on the segments that we share
// with it: its addresses in subnets of our interfaces. Those on which it announces come
// first, for it is their wires that matter; only if none is shared its management
// network is asked.
func Shared(ours []lb.Interface, suspect Member) func(yield func(SegmentQuestion) bool) {
	return func(yield func(SegmentQuestion) bool) {
		asked := false
		for q := range onLink(ours, suspect.Interfaces) {
			if asked = true; !yield(q) {
				return
			}
		}
		if asked {
			return
		}
		for q := range onLink(ours, suspect.Management) {
			if !yield(q) {
				return
			}
		}
	}
}

// onLink yields addresses of interfaces of another node in subnets of ours. Link-local
// subnets name no segment: every interface has the same.
func onLink(ours, theirs []lb.Interface) func(yield func(SegmentQuestion) bool) {
	return func(yield func(SegmentQuestion) bool) {
		for _, i := range ours {
			if i.Fault() != lb.InterfaceOK {
				continue
			}
			for _, o := range theirs {
				for _, p := range o.Addresses {
					a := p.Addr()
					if !a.IsLinkLocalUnicast() && i.OnLink(a) {
						if !yield(SegmentQuestion{i.Index, a, o.MAC}) {
							return
						}
						break // one address of an interface tells as much as all
					}
				}
			}
		}
	}
}

// Voices yields what the speaker of a suspect can be asked on the segments that we
// share with it: an address that it claims, another one in each round. Nobody but a
// speaker answers for these, so an answer says that gossip is what is broken. An
// interface that shares no subnet with ours is taken to be on the segment of our
// interface of the same name: an answer says that it is, and none says nothing.
func Voices(ours []lb.Interface, suspect Member, round int) func(yield func(SegmentQuestion) bool) {
	return func(yield func(SegmentQuestion) bool) {
		if len(suspect.Claims) == 0 {
			return
		}
		claims := slices.SortedFunc(maps.Keys(suspect.Claims), netip.Addr.Compare)
		asked := 0
		for i, mac := range facing(ours, suspect.Interfaces) {
			there := slices.DeleteFunc(slices.Clone(claims), func(a netip.Addr) bool { return !i.OnLink(a) })
			if len(there) == 0 {
				there = claims
			}
			q := SegmentQuestion{i.Index, there[(round+asked)%len(there)], mac}
			asked++
			if !yield(q) {
				return
			}
		}
	}
}

// facing yields pairs of our interfaces and the hardware addresses of another node's on
// the same segment: by subnet, or by name where that says nothing.
func facing(ours, theirs []lb.Interface) func(yield func(lb.Interface, lb.MAC) bool) {
	return func(yield func(lb.Interface, lb.MAC) bool) {
		met := map[lb.MAC]bool{}
		for q := range onLink(ours, theirs) {
			met[q.MAC] = true
			k := slices.IndexFunc(ours, func(i lb.Interface) bool { return i.Index == q.Interface })
			if !yield(ours[k], q.MAC) {
				return
			}
		}
		for _, o := range theirs {
			k := slices.IndexFunc(ours, func(i lb.Interface) bool { return i.Name == o.Name && i.Fault() == lb.InterfaceOK })
			if k >= 0 && !met[o.MAC] && !yield(ours[k], o.MAC) {
				return
			}
		}
	}
}

// A Port is what came of connecting to the suspect's gossip port.
type Port uint8

// Results of connecting.
const (
	// PortUnknown: that is not known yet.
	PortUnknown Port = iota
	// PortSilent: nothing came back in time.
	PortSilent
	// PortRefused: its kernel says that no such process is there.
	PortRefused
	// PortOpen: its kernel accepted, so the process exists, if stopped.
	PortOpen
)

// String returns the result in one word.
func (p Port) String() string { return [...]string{"unknown", "silent", "refused", "open"}[p] }

// Patience relates the durations of a suspicion.
type Patience struct {
	// Slow is how long after gossip lost a member it is given up, though its
	// kernel answers.
	Slow time.Duration
	// Again is the pause between two questions to a stalled member, so that
	// one that dies while it is stalled is noticed.
	Again time.Duration
	// Watch is the pause between two questions to a member that is cut off. That
	// may last for days.
	Watch time.Duration
	// Soon is the first pause between two questions to a member that its watch does
	// not hear and that lives all the same. It doubles up to Watch.
	Soon time.Duration
	// Alarm is how long a question that a watch led to waits for its answer before
	// the others are told to ask, too. A node that lives answers long before. They are
	// told alarms times, twice as far apart, for a packet may be lost.
	Alarm time.Duration
}

// A Cause says why a member counts as gone.
type Cause uint8

// Causes.
const (
	// NotGone: it is not.
	NotGone Cause = iota
	// GoneSilent: no station answered for it on its segment: no power, or no link.
	GoneSilent
	// GoneRefused: its kernel lives and its speaker does not.
	GoneRefused
	// GoneSlow: its speaker stayed silent for longer than Patience.Slow.
	GoneSlow
	// GoneLeft: it took its leave.
	GoneLeft
)

// String returns the cause in one word.
func (c Cause) String() string {
	return [...]string{"none", "silent", "refused", "slow", "left"}[c]
}

// An Event is what happens to a suspicion.
type Event interface{ event() }

type (
	// Heard: gossip holds the member for alive.
	Heard struct{}
	// Lost: gossip holds the member for dead. That is only a suspicion, for
	// gossip cannot tell a stopped process from a node without power.
	Lost struct{}
	// Left: the member took its leave.
	Left struct{}
	// Answer is the answer to the question of that Round.
	Answer struct {
		Round   int
		Segment Reply
		Port    Port
	}
	// Missed: its watch on the segment hears it no more; Seen: it hears it; Unwatched:
	// there is none. What a watch misses is no more than a reason to ask: a process
	// that is starved, its own or the other one, misses as much.
	Missed    struct{}
	Seen      struct{}
	Unwatched struct{}
	// Alarmed: another member's watch misses it, and its question has no answer yet.
	Alarmed struct{}
	// Spoke: it was heard by gossip, or another member had an answer from it.
	Spoke struct{}
	// Tick: time has passed.
	Tick struct{}
)

func (Heard) event()     {}
func (Lost) event()      {}
func (Left) event()      {}
func (Answer) event()    {}
func (Missed) event()    {}
func (Seen) event()      {}
func (Unwatched) event() {}
func (Alarmed) event()   {}
func (Spoke) event()     {}
func (Tick) event()      {}

// A Sight is what the watch of a member sees.
type Sight uint8

// Sights.
const (
	// NoSight: it is not watched, or its watch never heard it.
	NoSight Sight = iota
	// InSight: its speaker is heard on the segment.
	InSight
	// OutOfSight: it was, and is not any more.
	OutOfSight
)

// A Suspicion is what one node thinks of the life of another: Alive, Suspected,
// Stalled, Cut or Gone. The zero value is a member not heard of yet.
type Suspicion struct {
	// State is Alive, Suspected, Stalled, Cut or Gone.
	State State
	// Cause is why, when Gone.
	Cause Cause
	// Round numbers the questions; the answers to earlier ones are void.
	Round int
	// Lost is when gossip lost it, and Since when there was the last sign of life: the
	// same, unless its speaker answered on the segment after that.
	Lost, Since time.Duration
	// again is when to ask a stalled member, one that is cut off, or one that is out of
	// sight, again; never is no date.
	again time.Duration
	// sight is what its watch sees. asked is set while a question is open that led
	// from this to a member that gossip holds for alive, alarm while the others are to
	// be told if that takes long, and alarms is how often they were; pause is that before
	// the next question.
	sight        Sight
	asked, alarm bool
	alarms       int
	pause        time.Duration
}

const never time.Duration = 1<<63 - 1

// Until returns when a Tick is due, or false when none is.
func (s Suspicion) Until(p Patience) (due time.Duration, waits bool) {
	if s.doubted() {
		return min(s.again, s.Since+p.Slow), true
	}
	return s.again, s.State == Alive && s.again != never
}

// alarms is how often others are told of one that does not answer.
const alarms = 3

// Alarms returns when the others are to be told that the member is out of sight and
// does not answer, or false when they are not.
func (s Suspicion) Alarms(p Patience) (time.Duration, bool) {
	return s.Since + time.Duration(1+2*s.alarms)*p.Alarm, s.alarm
}

// Step returns what becomes of s by an event at a time on the caller's own
// clock, and whether to ask the suspect now, in Round, on its segment and at
// its port.
//
//	state      Heard  Lost           Missed  answer: gone  lives    speaks  Tick
//	Alive      -      Suspected,ask  ask     Gone if asked -        -       ask again
//	Suspected  Alive  -              -       Gone          Stalled  Cut     Gone after Slow
//	Stalled    Alive  -              ask     Gone          Stalled  Cut     Gone after Slow, ask each Again
//	Cut        Alive  -              ask     Gone          Stalled  Cut     Gone after Slow, ask each Watch
//	Gone       Alive  -              -       -             -        -       -
//
// Left leads to Gone from anywhere. Slow counts from the last sign of life, so a
// member stays Cut for as long as its speaker answers. That its watch sees it counts
// for less: its speaker lives, and may not answer for what it claimed.
//
// A member that gossip holds for alive stays Alive while it is asked because its
// watch misses it: mostly nothing is the matter, and no node is to act on that. It is
// Gone if the segment is silent, or its port refuses, and nothing was heard of it
// meanwhile in any other way.
func (s Suspicion) Step(p Patience, now time.Duration, e Event) (next Suspicion, ask bool) {
	switch e := e.(type) {
	case Heard:
		next = Suspicion{State: Alive, Round: s.Round + 1, again: never, sight: s.sight}
		if s.sight == OutOfSight {
			next = next.later(p, now)
		}
		return next, false
	case Left:
		return s.gone(GoneLeft), false
	case Lost:
		if s.State != Alive {
			return s, false
		}
		return Suspicion{State: Suspected, Round: s.Round + 1, Lost: now, Since: now, again: never, sight: s.sight}, true
	case Missed:
		s.sight = OutOfSight
		switch {
		case s.asked:
			s.alarm = true
		case s.State == Alive:
			return s.question(now, true), true
		case s.doubted() && s.again != never && now < s.Since+p.Slow:
			s.Round, s.again = s.Round+1, never
			return s, true
		}
		return s, false
	case Alarmed:
		if s.State == Alive && !s.asked {
			return s.question(now, false), true
		}
		return s, false
	case Seen:
		s.sight = InSight
		if s.State == Alive {
			s = s.lives()
			s.again, s.pause = never, 0
		}
		return s, false
	case Unwatched:
		s.sight = NoSight
		if s.State == Alive && !s.asked {
			s.again, s.pause = never, 0
		}
		return s, false
	case Spoke:
		if s.asked {
			s = s.lives().later(p, now)
		}
		return s, false
	case Answer:
		if e.Round != s.Round || !s.doubted() && !s.asked {
			return s, false
		}
		if s.sight == InSight && e.Segment != Speaks {
			e.Segment, e.Port = Answers, PortOpen // Whatever that is, it is not gone.
		}
		switch {
		case s.asked && e.Segment == Speaks:
			return s.lives().later(p, now), false
		case e.Segment == Speaks:
			s.State, s.Since, s.again = Cut, now, now+p.Watch
			return s, false
		case e.Segment == Silent:
			return s.gone(GoneSilent), false
		case e.Port == PortRefused:
			return s.gone(GoneRefused), false
		case s.asked:
			return s.lives().later(p, now), false
		}
		s.State, s.again = Stalled, now+p.Again
		return s, false
	}
	// A Tick.
	switch due, waits := s.Until(p); {
	case !waits || now < due:
		return s, false
	case s.State == Alive:
		return s.question(now, true), true
	case now >= s.Since+p.Slow:
		return s.gone(GoneSlow), false
	}
	s.Round, s.again = s.Round+1, never
	return s, true
}

// question asks a member that gossip holds for alive.
func (s Suspicion) question(now time.Duration, alarm bool) Suspicion {
	s.Round, s.Since, s.again, s.asked, s.alarm, s.alarms = s.Round+1, now, never, true, alarm, 0
	return s
}

// lives ends a question to a member that gossip holds for alive: it lives.
func (s Suspicion) lives() Suspicion {
	if s.asked {
		s.Round, s.asked, s.alarm = s.Round+1, false, false
	}
	return s
}

// later asks a member again after a while, if it is out of sight still.
func (s Suspicion) later(p Patience, now time.Duration) Suspicion {
	if s.sight == OutOfSight {
		s.pause = min(max(p.Soon, 2*s.pause), p.Watch)
		s.again = now + s.pause
	}
	return s
}

// replied says that it answers, so that the others need not be told.
func (s Suspicion) replied() Suspicion {
	s.alarm = false
	return s
}

// told says that the others were told.
func (s Suspicion) told() Suspicion {
	s.alarms++
	s.alarm = s.alarms < alarms
	return s
}

// doubted reports whether gossip has lost it and it is not given up.
func (s Suspicion) doubted() bool {
	return s.State == Suspected || s.State == Stalled || s.State == Cut
}

func (s Suspicion) gone(c Cause) Suspicion {
	return Suspicion{State: Gone, Cause: c, Round: s.Round + 1, Lost: s.Lost, Since: s.Since}
}
