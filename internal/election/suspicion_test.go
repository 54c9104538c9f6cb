package election

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/transcript"
)

var patience = Patience{Slow: time.Second, Again: 100 * time.Millisecond, Watch: 300 * time.Millisecond, Soon: 50 * time.Millisecond, Alarm: 6 * time.Millisecond}

// TestASuspicionEndsByWhatTheSuspectsKernelSays runs the histories in testdata: each line is a time and an event, or
// "told" or "replied", which a View says itself.
func TestASuspicionEndsByWhatTheSuspectsKernelSays(t *testing.T) {
	transcript.Run(t, "testdata/suspicions.txt", func(t *testing.T) transcript.World { return &suspicions{T: t} })
}

type suspicions struct {
	*testing.T
	Suspicion
}

func (w *suspicions) Line(line string) string {
	args := strings.Fields(line)
	if args[0] == "new" {
		w.Suspicion = Suspicion{}
		return ""
	}
	now, ask := transcript.Duration(w.T, args[0]), false
	switch args[1] {
	case "told":
		w.Suspicion = w.told()
	case "replied":
		w.Suspicion = w.replied()
	default:
		e := map[string]Event{
			"heard": Heard{}, "lost": Lost{}, "left": Left{}, "tick": Tick{}, "missed": Missed{}, "seen": Seen{},
			"unwatched": Unwatched{}, "alarmed": Alarmed{}, "spoke": Spoke{},
		}[args[1]]
		if args[1] == "answer" {
			e = Answer{
				Round:   transcript.Number(w.T, args[2], 0),
				Segment: map[string]Reply{"unknown": Unknown, "silent": Silent, "answers": Answers, "speaks": Speaks}[args[3]],
				Port:    map[string]Port{"silent": PortSilent, "refused": PortRefused, "open": PortOpen}[args[4]],
			}
		}
		w.Suspicion, ask = w.Step(patience, now, e)
	}
	out := fmt.Sprintf("%v %v", now, w.State)
	if w.Cause != NotGone {
		out += fmt.Sprintf(" (%v)", w.Cause)
	}
	if ask {
		out += fmt.Sprintf(", asked in round %d", w.Round)
	}
	if due, waits := w.Until(patience); waits {
		out += fmt.Sprintf(", due %v", due)
	}
	if at, alarms := w.Alarms(patience); alarms {
		out += fmt.Sprintf(", the others at %v", at)
	}
	return out + "\n"
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
