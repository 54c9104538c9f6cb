package bfd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts runs the conversations in testdata. A block is a command,
// "----", and what it prints; lines that start with # are comments. Jitter is
// off: an interval is what it says.
//
//	session tx=DUR rx=DUR x=N [passive]    begins anew, with discriminator 1
//	recv STATE [poll] [final] [demand] [mine=N] [yours=N] tx=DUR rx=DUR x=N
//	sleep DUR                               lets time pass
//	reconfigure tx=DUR rx=DUR x=N
//	close
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return &conversation{t: t} })
}

type conversation struct {
	t   *testing.T
	s   *Session
	now time.Duration
	out strings.Builder
}

// Line does what a line says, and returns what came of it.
func (c *conversation) Line(line string) string {
	c.out.Reset()
	c.line(strings.Fields(line))
	return c.out.String()
}

func (c *conversation) line(args []string) {
	before := Down
	if c.s != nil {
		before = c.s.State()
	}
	values := map[string]string{}
	for _, a := range args[1:] {
		k, v, _ := strings.Cut(a, "=")
		values[k] = v
	}
	config := Config{Transmit: transcript.Duration(c.t, values["tx"]), Receive: transcript.Duration(c.t, values["rx"]), Multiplier: uint8(transcript.Number(c.t, values["x"], 3))}
	_, config.Passive = values["passive"]
	switch args[0] {
	case "session":
		c.now = 0
		c.s = NewSession(config, 1, 0, func() float64 { return 1 })
		c.tick()
	case "recv":
		p := Packet{
			State: map[string]State{"admindown": AdminDown, "down": Down, "init": Init, "up": Up}[args[1]], Multiplier: uint8(transcript.Number(c.t, values["x"], 3)),
			Mine: uint32(transcript.Number(c.t, values["mine"], 7)), Yours: uint32(transcript.Number(c.t, values["yours"], 1)),
			DesiredTx: config.Transmit, RequiredRx: config.Receive,
		}
		_, p.Poll = values["poll"]
		_, p.Final = values["final"]
		_, p.Demand = values["demand"]
		if answer, ok := c.s.Receive(p, c.now); ok {
			fmt.Fprintf(&c.out, "%v send %v\n", c.now, answer)
		}
		c.changed(before)
		c.tick()
	case "reconfigure":
		c.s.Reconfigure(config, c.now)
		c.tick()
	case "sleep":
		end := c.now + transcript.Duration(c.t, args[1])
		for {
			at, ok := c.s.Next()
			if !ok || at > end {
				break
			}
			before := c.s.State()
			c.now = max(c.now, at)
			c.tick()
			c.changed(before)
		}
		c.now = end
	case "close":
		fmt.Fprintf(&c.out, "%v send %v\n", c.now, c.s.Close())
	default:
		c.t.Fatalf("unknown command %q", args)
	}
}

func (c *conversation) tick() {
	if p, ok := c.s.Tick(c.now); ok {
		fmt.Fprintf(&c.out, "%v send %v\n", c.now, p)
	}
}

func (c *conversation) changed(before State) {
	if s := c.s.State(); s != before {
		fmt.Fprintf(&c.out, "%v %v", c.now, s)
		if s == Down || before == Up {
			fmt.Fprintf(&c.out, ": %v", c.s.Diag())
		} else if s == Up {
			fmt.Fprintf(&c.out, ", silent for %v at most", c.s.DetectionTime())
		}
		c.out.WriteString("\n")
	}
}

// Two sessions talk over a path that loses, delays and reorders packets, and is
// cut now and then. While it is whole they are up; when it is cut for longer
// than the detection time, both go down within it; they never disagree for long.
func TestTwoEndsAgree(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		interval := func() time.Duration { return time.Duration(10+r.IntN(300)) * time.Millisecond }
		a := NewSession(Config{Transmit: interval(), Receive: interval(), Multiplier: uint8(2 + r.IntN(4)), Passive: r.IntN(4) == 0}, 1, 0, r.Float64)
		b := NewSession(Config{Transmit: interval(), Receive: interval(), Multiplier: uint8(2 + r.IntN(4))}, 2, 0, r.Float64)
		type flight struct {
			at time.Duration
			to *Session
			p  Packet
		}
		var air []flight
		cut := false
		send := func(from *Session, p Packet, now time.Duration) {
			if cut {
				return
			}
			to := b
			if from == b {
				to = a
			}
			parsed, err := Parse(Append(nil, p))
			if err != nil {
				t.Fatalf("%v: %v", p, err)
			}
			if parsed.Yours != 0 && parsed.Yours != to.Local() {
				t.Fatalf("seed %d: %v is not for %d", seed, parsed, to.Local())
			}
			air = append(air, flight{now + time.Duration(r.IntN(2000))*time.Microsecond, to, parsed})
		}
		var cutAt time.Duration
		for now := time.Duration(0); now < 40*time.Second; now += time.Millisecond {
			switch now {
			case 10 * time.Second:
				if a.State() != Up || b.State() != Up {
					t.Fatalf("seed %d: %v and %v after 10 s of a whole path", seed, a.State(), b.State())
				}
				cut, cutAt = true, now
			case 20 * time.Second:
				cut = false
			case 25 * time.Second:
				a.Reconfigure(Config{Transmit: interval(), Receive: interval(), Multiplier: 3}, now)
			}
			if cut && now > cutAt+max(a.DetectionTime(), b.DetectionTime())+5*time.Millisecond && now < cutAt+5*time.Second {
				if a.State() == Up || b.State() == Up {
					t.Fatalf("seed %d: %v and %v %v after the cut", seed, a.State(), b.State(), now-cutAt)
				}
			}
			for i := 0; i < len(air); i++ {
				if f := air[i]; f.at <= now {
					air = append(air[:i], air[i+1:]...)
					i--
					if answer, ok := f.to.Receive(f.p, now); ok {
						send(f.to, answer, now)
					}
				}
			}
			for _, s := range []*Session{a, b} {
				if at, ok := s.Next(); ok && at <= now {
					was := s.State()
					if p, ok := s.Tick(now); ok {
						send(s, p, now)
					}
					if was == Up && s.State() != Up && !cut {
						t.Fatalf("seed %d: down at %v on a whole path: %v", seed, now, s.Diag())
					}
				}
			}
		}
		if a.State() != Up || b.State() != Up {
			t.Fatalf("seed %d: %v and %v in the end", seed, a.State(), b.State())
		}
		if a.desiredTx != a.config.Transmit || a.requiredRx != a.config.Receive || a.polling {
			t.Fatalf("seed %d: the change of intervals was not carried through: %+v", seed, a)
		}
	}
}

func TestPacketIsWrittenAsTheRFCDrawsIt(t *testing.T) {
	p := Packet{
		Diag: NeighborDown, State: Up, Poll: true, Multiplier: 3, Mine: 0x01020304, Yours: 0x05060708,
		DesiredTx: 300 * time.Millisecond, RequiredRx: 50 * time.Millisecond,
	}
	const want = "23e0031801020304050607080004" + "93e0" + "0000c350" + "00000000"
	b := Append(nil, p)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, err := Parse(b); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNoPacketIsDiscarded(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
		want  error
	}{
		{"short", func(b []byte) []byte { return b[:23] }, ErrShort},
		{"longer than it is", func(b []byte) []byte { b[3] = 25; return b }, ErrShort},
		{"shorter than a packet can be", func(b []byte) []byte { b[3] = 23; return b }, ErrShort},
		{"version 0", func(b []byte) []byte { b[0] &= 0x1f; return b }, ErrVersion},
		{"version 2", func(b []byte) []byte { b[0] = 0x40; return b }, ErrVersion},
		{"multiplier 0", func(b []byte) []byte { b[2] = 0; return b }, ErrMultiplier},
		{"multipoint", func(b []byte) []byte { b[1] |= flagMultipoint; return b }, ErrMultipoint},
		{"authenticated", func(b []byte) []byte { b[1] |= flagAuth; return b }, ErrAuthentication},
		{"from nobody", func(b []byte) []byte { clear(b[4:8]); return b }, ErrDiscriminator},
		{"to nobody, but up", func(b []byte) []byte { clear(b[8:12]); return b }, ErrDiscriminator},
	} {
		b := c.spoil(Append(nil, Packet{State: Up, Multiplier: 3, Mine: 1, Yours: 2}))
		if _, err := Parse(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	// What follows the packet is not looked at.
	if _, err := Parse(append(Append(nil, Packet{State: Down, Multiplier: 3, Mine: 1}), 1, 2, 3)); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Append(nil, Packet{State: Up, Multiplier: 3, Mine: 1, Yours: 2, DesiredTx: time.Second, RequiredRx: time.Second}))
	f.Add(Append(nil, Packet{State: Down, Poll: true, Multiplier: 1, Mine: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := Parse(Append(nil, p)); err != nil || again != p {
			t.Errorf("%+v becomes %+v, %v", p, again, err)
		}
		s := NewSession(Config{Transmit: time.Second, Receive: time.Second, Multiplier: 3}, 1, 0, func() float64 { return 0.5 })
		for now := range time.Duration(5) {
			_, _ = s.Receive(p, now*time.Second)
			_, _ = s.Tick(now * time.Second)
			if at, ok := s.Next(); ok && at < 0 {
				t.Errorf("next event at %v", at)
			}
			_ = p.String()
		}
	})
}
