package bfd

import (
	"bytes"
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
//	session tx=DUR rx=DUR x=N [begin=DUR] [passive] [AUTH]   begins anew, with discriminator 1
//	recv STATE [poll] [final] [demand] [mine=N] [yours=N] tx=DUR rx=DUR x=N [AUTH seq=N]
//	sleep DUR                                     lets time pass
//	stall DUR                                     lets it pass while the process is stopped
//	reconfigure tx=DUR rx=DUR x=N [AUTH]
//	close
//
// AUTH is auth=keyed|meticulous keys=ID:TEXT,...: the first key signs.
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
	if begin := values["begin"]; begin != "" {
		config.Begin = transcript.Duration(c.t, begin)
	}
	config.Authentication.Type = map[string]AuthType{"keyed": KeyedSHA1, "meticulous": MeticulousKeyedSHA1}[values["auth"]]
	for key := range strings.SplitSeq(values["keys"], ",") {
		if id, text, ok := strings.Cut(key, ":"); ok {
			config.Authentication.Keys = append(config.Authentication.Keys, NewKey(uint8(transcript.Number(c.t, id, 0)), text))
		}
	}
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
		b := Append(nil, p)
		if a := config.Authentication; a.Type != NoAuth {
			p.Auth = AuthSection{Type: a.Type, KeyID: a.Keys[0].ID, Sequence: uint32(transcript.Number(c.t, values["seq"], 0))}
			b = Append(nil, p)
			sign(b, a.Keys[0])
		}
		if answer, ok := c.s.Receive(b, c.now); ok {
			c.sent(answer)
		}
		if why := c.s.Refusal(); why != nil {
			fmt.Fprintf(&c.out, "%v refused: %v\n", c.now, why)
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
	case "stall":
		c.now += transcript.Duration(c.t, args[1])
		c.tick()
		c.changed(before)
	case "close":
		c.sent(c.s.Close())
	default:
		c.t.Fatalf("unknown command %q", args)
	}
}

func (c *conversation) tick() {
	if b, ok := c.s.Tick(c.now); ok {
		c.sent(b)
	}
}

// sent prints what is sent, which must be signed as the session says.
func (c *conversation) sent(b []byte) {
	p, err := Parse(b)
	if err == nil {
		err = c.s.config.Authentication.verify(b, p)
	}
	if err != nil {
		c.t.Fatalf("sends %x: %v", b, err)
	}
	fmt.Fprintf(&c.out, "%v send %v\n", c.now, p)
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
// Most of them sign, and change their keys one after the other.
func TestTwoEndsAgree(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		interval := func() time.Duration { return time.Duration(10+r.IntN(300)) * time.Millisecond }
		// keys are Authentications of the same type, with these keys.
		keys := func(ks ...Key) Authentication {
			if kind := [...]AuthType{NoAuth, KeyedSHA1, MeticulousKeyedSHA1}[seed%3]; kind != NoAuth {
				return Authentication{kind, ks}
			}
			return Authentication{}
		}
		older, newer := NewKey(1, "older"), NewKey(2, "newer")
		a := NewSession(Config{Transmit: interval(), Receive: interval(), Multiplier: uint8(2 + r.IntN(4)), Passive: r.IntN(4) == 0, Authentication: keys(older)}, 1, 0, r.Float64)
		b := NewSession(Config{Transmit: interval(), Receive: interval(), Multiplier: uint8(2 + r.IntN(4)), Authentication: keys(older)}, 2, 0, r.Float64)
		type flight struct {
			at     time.Duration
			to     *Session
			octets []byte
		}
		var air []flight
		cut := false
		send := func(from *Session, octets []byte, now time.Duration) {
			if cut {
				return
			}
			to := b
			if from == b {
				to = a
			}
			parsed, err := Parse(octets)
			if err != nil {
				t.Fatalf("%x: %v", octets, err)
			}
			if parsed.Yours != 0 && parsed.Yours != to.Local() {
				t.Fatalf("seed %d: %v is not for %d", seed, parsed, to.Local())
			}
			air = append(air, flight{now + time.Duration(r.IntN(2000))*time.Microsecond, to, octets})
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
				a.Reconfigure(Config{Transmit: interval(), Receive: interval(), Multiplier: 3, Authentication: keys(older)}, now)
			}
			// First both accept the new key, then both sign with it, then the old one goes.
			for i, s := range []*Session{a, b, a, b, a, b} {
				if now == 30*time.Second+time.Duration(i)*time.Second {
					c := s.config
					c.Authentication = [...]Authentication{keys(older, newer), keys(newer, older), keys(newer)}[i/2]
					s.Reconfigure(c, now)
				}
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
					if answer, ok := f.to.Receive(f.octets, now); ok {
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
		{"authenticated, without a section", func(b []byte) []byte { b[1] |= flagAuth; return b }, ErrAuthentication},
		{"authenticated by MD5", func(b []byte) []byte { return section(b, 2, 28, 28) }, ErrAuthentication},
		{"authenticated by more than there is", func(b []byte) []byte { return section(b, 4, 28, 28)[:51] }, ErrShort},
		{"a section of another length than it says", func(b []byte) []byte { return section(b, 4, 29, 28) }, ErrAuthentication},
		{"a section that is too short", func(b []byte) []byte { return section(b, 5, 27, 27) }, ErrAuthentication},
		{"a section and more", func(b []byte) []byte { return section(b, 5, 28, 29) }, ErrAuthentication},
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

// section appends an authentication section to a packet: its type, the length that
// it says, and how long it is.
func section(b []byte, kind, says byte, length int) []byte {
	b[1] |= flagAuth
	b[3] += byte(length)
	return append(append(b, kind, says), make([]byte, length-2)...)
}

// The digests were computed by another implementation of SHA-1, over the octets that
// RFC 5880 section 6.7.4 names.
func TestPacketsAreSignedAsTheRFCSays(t *testing.T) {
	p := Packet{
		State: Up, Multiplier: 3, Mine: 0x01020304, Yours: 0x05060708, DesiredTx: 300 * time.Millisecond, RequiredRx: 50 * time.Millisecond,
	}
	for _, c := range []struct {
		kind AuthType
		key  Key
		want string
	}{
		{KeyedSHA1, NewKey(7, "correct-horse"), "e946a43611612222a6800484d0f6969ac474916a"},
		{MeticulousKeyedSHA1, NewKey(255, "exactly-twenty-bytes"), "23ab36a15e0d729f1a2fd7c7ddce5b9c976610b7"},
	} {
		p.Auth = AuthSection{Type: c.kind, KeyID: c.key.ID, Sequence: 0xfffffffe}
		b := Append(nil, p)
		sign(b, c.key)
		if got := hex.EncodeToString(b[PacketLen+8:]); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
		signed, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []struct {
			a    Authentication
			want error
		}{
			{Authentication{c.kind, []Key{NewKey(9, "x"), c.key}}, nil},
			{Authentication{}, ErrSigned},
			{Authentication{KeyedSHA1 + MeticulousKeyedSHA1 - c.kind, []Key{c.key}}, ErrAuthType},
			{Authentication{c.kind, []Key{NewKey(c.key.ID+1, "correct-horse")}}, ErrKeyID},
			{Authentication{c.kind, []Key{NewKey(c.key.ID, "correct-horsf")}}, ErrDigest},
		} {
			if err := r.a.verify(b, signed); err != r.want {
				t.Errorf("%v: %v, want %v", r.a, err, r.want)
			}
		}
		// Each octet counts.
		for i := range b {
			forged := bytes.Clone(b)
			forged[i] ^= 1
			if p, err := Parse(forged); err == nil && (Authentication{c.kind, []Key{c.key}}).verify(forged, p) == nil && i != PacketLen+3 {
				t.Errorf("octet %d can be changed", i)
			}
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", NewKey(1, "hunter2"), Config{Authentication: Authentication{KeyedSHA1, []Key{NewKey(1, "hunter2")}}}, NewKey(1, "hunter2")); strings.Contains(text, "hunter2") || strings.Contains(text, "104 117") {
		t.Errorf("a key is printed: %s", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Append(nil, Packet{State: Up, Multiplier: 3, Mine: 1, Yours: 2, DesiredTx: time.Second, RequiredRx: time.Second}))
	f.Add(Append(nil, Packet{State: Down, Poll: true, Multiplier: 1, Mine: 1}))
	f.Add(Append(nil, Packet{State: Init, Multiplier: 3, Mine: 2, Yours: 1, Auth: AuthSection{Type: MeticulousKeyedSHA1, KeyID: 1, Sequence: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := Parse(Append(nil, p)); err != nil || again != p {
			t.Errorf("%+v becomes %+v, %v", p, again, err)
		}
		config := Config{Transmit: time.Second, Receive: time.Second, Multiplier: 3}
		if p.Auth.Type != NoAuth {
			config.Authentication = Authentication{p.Auth.Type, []Key{NewKey(p.Auth.KeyID, "key")}}
			sign(b, config.Authentication.Keys[0])
		}
		s := NewSession(config, 1, 0, func() float64 { return 0.5 })
		for now := range time.Duration(5) {
			_, _ = s.Receive(b, now*time.Second)
			_, _ = s.Tick(now * time.Second)
			if at, ok := s.Next(); ok && at < 0 {
				t.Errorf("next event at %v", at)
			}
			_ = p.String()
		}
	})
}
