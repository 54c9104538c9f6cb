package election

import (
	"math/rand/v2"
	"testing"
	"time"
)

var patience = Patience{Slow: time.Second, Again: 100 * time.Millisecond, Watch: 300 * time.Millisecond, Soon: 50 * time.Millisecond, Alarm: 6 * time.Millisecond}

func TestASuspicionEndsByWhatTheSuspectsKernelSays(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at    time.Duration
		event Event
		state State
		cause Cause
		ask   bool
	}
	for name, steps := range map[string][]step{
		"no power": {
			{0, Heard{}, Alive, NotGone, false},
			{10 * ms, Lost{}, Suspected, NotGone, true},
			{70 * ms, Answer{2, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"no power, and yet the port is reached another way": {
			{0, Heard{}, Alive, NotGone, false},
			{10 * ms, Lost{}, Suspected, NotGone, true},
			{70 * ms, Answer{2, Silent, PortOpen}, Gone, GoneSilent, false},
		},
		"killed": {
			{0, Heard{}, Alive, NotGone, false},
			{10 * ms, Lost{}, Suspected, NotGone, true},
			{11 * ms, Answer{2, Answers, PortRefused}, Gone, GoneRefused, false},
		},
		"killed, and no segment to ask on": {
			{0, Heard{}, Alive, NotGone, false},
			{10 * ms, Lost{}, Suspected, NotGone, true},
			{11 * ms, Answer{2, Unknown, PortRefused}, Gone, GoneRefused, false},
		},
		"stopped for half a second": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{410 * ms, Answer{2, Answers, PortOpen}, Stalled, NotGone, false},
			{420 * ms, Tick{}, Stalled, NotGone, false},
			{510 * ms, Heard{}, Alive, NotGone, false},
			{2000 * ms, Tick{}, Alive, NotGone, false},
		},
		"stopped for good": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{410 * ms, Answer{2, Answers, PortOpen}, Stalled, NotGone, false},
			{510 * ms, Tick{}, Stalled, NotGone, true},
			{520 * ms, Answer{3, Answers, PortOpen}, Stalled, NotGone, false},
			{620 * ms, Tick{}, Stalled, NotGone, true},
			{1399 * ms, Tick{}, Stalled, NotGone, false},
			{1400 * ms, Tick{}, Gone, GoneSlow, false},
		},
		"stopped, then its power fails": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{410 * ms, Answer{2, Answers, PortOpen}, Stalled, NotGone, false},
			{510 * ms, Tick{}, Stalled, NotGone, true},
			{570 * ms, Answer{3, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"an answer to an earlier question is void": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{410 * ms, Heard{}, Alive, NotGone, false},
			{411 * ms, Answer{2, Silent, PortSilent}, Alive, NotGone, false},
			{420 * ms, Lost{}, Suspected, NotGone, true},
			{421 * ms, Answer{2, Silent, PortSilent}, Suspected, NotGone, false},
			{430 * ms, Answer{4, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"a question that is never answered": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{1400 * ms, Tick{}, Gone, GoneSlow, false},
		},
		"gossip is blocked, its speaker answers": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{550 * ms, Answer{2, Speaks, PortSilent}, Cut, NotGone, false},
			{700 * ms, Tick{}, Cut, NotGone, false},
			{850 * ms, Tick{}, Cut, NotGone, true},
			{1000 * ms, Answer{3, Speaks, PortSilent}, Cut, NotGone, false},
			{1300 * ms, Tick{}, Cut, NotGone, true},
			{1450 * ms, Answer{4, Speaks, PortSilent}, Cut, NotGone, false},
			{1460 * ms, Lost{}, Cut, NotGone, false},
			{1600 * ms, Heard{}, Alive, NotGone, false},
		},
		"gossip is blocked, then its process is stopped for good": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{550 * ms, Answer{2, Speaks, PortSilent}, Cut, NotGone, false},
			{850 * ms, Tick{}, Cut, NotGone, true},
			{1000 * ms, Answer{3, Answers, PortSilent}, Stalled, NotGone, false},
			{1100 * ms, Tick{}, Stalled, NotGone, true},
			{1250 * ms, Answer{4, Unknown, PortSilent}, Stalled, NotGone, false},
			{1550 * ms, Tick{}, Gone, GoneSlow, false},
		},
		"gossip is blocked, then its power fails": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{550 * ms, Answer{2, Speaks, PortSilent}, Cut, NotGone, false},
			{850 * ms, Tick{}, Cut, NotGone, true},
			{910 * ms, Answer{3, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"stalled, and its speaker answers again": {
			{0, Heard{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{550 * ms, Answer{2, Answers, PortOpen}, Stalled, NotGone, false},
			{650 * ms, Tick{}, Stalled, NotGone, true},
			{660 * ms, Answer{3, Speaks, PortOpen}, Cut, NotGone, false},
		},
		"no power, and its watch misses it": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{140 * ms, Answer{2, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"killed, and its watch misses it": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{101 * ms, Answer{2, Unknown, PortRefused}, Gone, GoneRefused, false},
		},
		"its watch misses it, and it lives": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{101 * ms, Answer{2, Speaks, PortSilent}, Alive, NotGone, false},
			{140 * ms, Answer{2, Silent, PortSilent}, Alive, NotGone, false},
			{150 * ms, Tick{}, Alive, NotGone, false},
			{151 * ms, Tick{}, Alive, NotGone, true},
			{152 * ms, Seen{}, Alive, NotGone, false},
			{191 * ms, Answer{4, Silent, PortSilent}, Alive, NotGone, false},
		},
		"its watch misses it, and another has heard of it": {
			{0, Heard{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{110 * ms, Spoke{}, Alive, NotGone, false},
			{140 * ms, Answer{2, Silent, PortSilent}, Alive, NotGone, false},
			{160 * ms, Tick{}, Alive, NotGone, true},
			{200 * ms, Answer{4, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"another one's watch misses it, and its own sees it": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{100 * ms, Alarmed{}, Alive, NotGone, true},
			{101 * ms, Alarmed{}, Alive, NotGone, false},
			{140 * ms, Answer{2, Silent, PortRefused}, Alive, NotGone, false},
			{300 * ms, Tick{}, Alive, NotGone, false},
		},
		"another one's watch misses it, and nobody watches it here": {
			{0, Heard{}, Alive, NotGone, false},
			{100 * ms, Alarmed{}, Alive, NotGone, true},
			{140 * ms, Answer{2, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"both watches miss it, one after the other": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{100 * ms, Alarmed{}, Alive, NotGone, true},
			{120 * ms, Missed{}, Alive, NotGone, false},
			{140 * ms, Answer{2, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"gossip has lost it, and its watch sees it": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{440 * ms, Answer{2, Silent, PortRefused}, Stalled, NotGone, false},
			{540 * ms, Tick{}, Stalled, NotGone, true},
			{600 * ms, Missed{}, Stalled, NotGone, false},
			{640 * ms, Answer{3, Answers, PortOpen}, Stalled, NotGone, false},
			{650 * ms, Missed{}, Stalled, NotGone, true},
			{690 * ms, Answer{4, Silent, PortOpen}, Gone, GoneSilent, false},
		},
		"gossip has lost it for good, and its watch sees it": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * ms, Seen{}, Alive, NotGone, false},
			{400 * ms, Lost{}, Suspected, NotGone, true},
			{440 * ms, Answer{2, Answers, PortOpen}, Stalled, NotGone, false},
			{1400 * ms, Tick{}, Gone, GoneSlow, false},
		},
		"dying: its kernel answers once more": {
			{0, Heard{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{101 * ms, Answer{2, Answers, PortOpen}, Alive, NotGone, false},
			{151 * ms, Tick{}, Alive, NotGone, true},
			{191 * ms, Answer{4, Silent, PortSilent}, Gone, GoneSilent, false},
		},
		"missed by a watch that ends": {
			{0, Heard{}, Alive, NotGone, false},
			{100 * ms, Missed{}, Alive, NotGone, true},
			{101 * ms, Answer{2, Answers, PortOpen}, Alive, NotGone, false},
			{120 * ms, Unwatched{}, Alive, NotGone, false},
			{900 * ms, Tick{}, Alive, NotGone, false},
		},
		"nothing is the matter": {
			{0, Heard{}, Alive, NotGone, false},
			{5 * time.Hour, Tick{}, Alive, NotGone, false},
		},
		"left, and back": {
			{0, Heard{}, Alive, NotGone, false},
			{1 * ms, Left{}, Gone, GoneLeft, false},
			{2 * ms, Lost{}, Gone, GoneLeft, false},
			{3 * ms, Heard{}, Alive, NotGone, false},
		},
	} {
		var s Suspicion
		for i, c := range steps {
			var ask bool
			s, ask = s.Step(patience, c.at, c.event)
			if s.State != c.state || s.Cause != c.cause || ask != c.ask {
				t.Errorf("%s, step %d (%T at %v): %v by %v, ask %v; want %v by %v, ask %v",
					name, i, c.event, c.at, s.State, s.Cause, ask, c.state, c.cause, c.ask)
			}
		}
	}
}

// Whatever happens: nobody is gone without a cause, none stays in doubt beyond
// the bound, and one question is open at a time.
func TestNoSuspicionOutlivesItsBound(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 2))
		var s Suspicion
		s, _ = s.Step(patience, 0, Heard{})
		now, asked := time.Duration(0), 0
		for range 60 {
			now += time.Duration(r.IntN(80)) * time.Millisecond
			if due, ok := s.Until(patience); ok && due <= now {
				now = due
			}
			e := []Event{
				Tick{},
				Tick{},
				Tick{},
				Heard{},
				Lost{},
				Answer{r.IntN(s.Round + 1), Reply(r.IntN(4)), Port(r.IntN(3))},
				Answer{s.Round, Reply(r.IntN(4)), Port(r.IntN(3))},
				Missed{},
				Seen{},
				Unwatched{},
				Alarmed{},
				Spoke{},
			}[r.IntN(12)]
			before := s
			var ask bool
			s, ask = s.Step(patience, now, e)
			// A due Tick is never withheld for long by the edge.
			if !ask {
				var again bool
				s, again = s.Step(patience, now, Tick{})
				ask = again
			}
			if ask {
				if s.Round == asked {
					t.Fatalf("seed %d: round %d asked twice", seed, asked)
				}
				asked = s.Round
			}
			if (s.State == Gone) != (s.Cause != NotGone) {
				t.Fatalf("seed %d: %v by %v", seed, s.State, s.Cause)
			}
			if s.doubted() && now >= s.Since+patience.Slow {
				t.Fatalf("seed %d: %v since %v at %v", seed, s.State, s.Since, now)
			}
			// Nobody becomes gone whom gossip holds for alive, unless the segment keeps
			// silent, or the port refuses, while no watch sees it.
			a, answered := e.(Answer)
			gone := answered && s.State == Gone && before.asked && a.Round == before.Round && before.sight != InSight &&
				(a.Segment == Silent || a.Segment != Speaks && a.Port == PortRefused)
			if _, lost := e.(Lost); before.State == Alive && s.State != Alive && !lost && !gone {
				t.Fatalf("seed %d: %T made an alive member %v", seed, e, s.State)
			}
			if before.sight == InSight && s.sight == InSight && s.State == Gone && before.State != Gone && s.Cause != GoneSlow {
				t.Fatalf("seed %d: %T at %v: gone (%v) though its watch sees it", seed, e, now, s.Cause)
			}
			if s.asked && s.State != Alive || s.alarm && !s.asked {
				t.Fatalf("seed %d: %+v", seed, s)
			}
		}
	}
}
