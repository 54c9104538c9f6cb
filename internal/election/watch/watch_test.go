package watch

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/ipv4"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ownnet"
)

var key = gossipkey.Key{1, 2, 3}

// A sighting is what a session told.
type sighting struct {
	node string
	election.Sight
}

// A scene is one Watcher that has both ends of each session.
type scene struct {
	t *testing.T
	*Watcher
	seen    chan sighting
	sounded chan election.SegmentQuestion
	stop    func()
}

// Sound tells that it was called.
func (s *scene) Sound(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) {
	s.sounded <- election.SegmentQuestion{Interface: ifindex, Target: target, MAC: mac}
	<-ctx.Done()
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, seen: make(chan sighting, 64), sounded: make(chan election.SegmentQuestion, 8)}
	s.Watcher = New(Config{Keys: gossipkey.Ring{Send: key}}, slog.New(slog.NewTextHandler(t.Output(), nil)), nil, s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

func (s *scene) watch(watches ...election.Watch) {
	s.Set(election.Ring{Watches: watches}, func(w election.Watch, sight election.Sight) { s.seen <- sighting{w.Node, sight} })
}

// expect waits until these were told, in any order, and nothing else was before.
func (s *scene) expect(want ...sighting) {
	s.t.Helper()
	left := map[sighting]int{}
	for _, w := range want {
		left[w]++
	}
	for range want {
		select {
		case got := <-s.seen:
			if left[got]--; left[got] < 0 {
				s.t.Fatalf("%s is told as %v; want %v", got.node, got.Sight, want)
			}
		case <-time.After(20 * time.Second):
			s.t.Fatalf("not told within 20 s: %v", left)
		}
	}
}

// ends are both ends of a session over loopback.
func ends(family lb.Family) (a, b election.Watch) {
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	if family == lb.IPv6 {
		one, two = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		panic(err)
	}
	return election.Watch{Node: "a", Interface: lo.Index, Local: one, Remote: two}, election.Watch{Node: "b", Interface: lo.Index, Local: two, Remote: one}
}

// alone skips a test that needs a network namespace of its own.
func alone(t *testing.T) {
	t.Helper()
	if os.Getenv(ownnet.Own) == "" {
		t.Skip("SKIPPED: needs a network namespace of its own")
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// addresses gives loopback those that the sessions run between.
func addresses(t *testing.T) {
	for _, a := range []string{"2001:db8::1/128", "2001:db8::2/128"} {
		ip(t, "-6", "addr", "replace", a, "dev", "lo", "nodad")
	}
}

func families(t *testing.T, run func(t *testing.T, a, b election.Watch)) {
	alone(t)
	addresses(t)
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		t.Run(f.String(), func(t *testing.T) { a, b := ends(f); run(t, a, b) })
	}
}

func TestBothEndsSeeEachOtherAndAnEndThatGoesIsNotMissed(t *testing.T) {
	families(t, func(t *testing.T, a, b election.Watch) {
		s := newScene(t)
		s.watch(a, b)
		s.expect(sighting{"a", election.InSight}, sighting{"b", election.InSight})
		s.watch(a)
		s.expect(sighting{"a", election.NoSight})
		s.watch(a, b)
		s.expect(sighting{"a", election.InSight}, sighting{"b", election.InSight})
		s.stop()
		s.expect(sighting{"a", election.NoSight}, sighting{"b", election.NoSight})
		if n := testutil.ToFloat64(s.metrics.missed); n != 0 {
			t.Errorf("%v were missed, though nothing was silent", n)
		}
	})
}

func TestSilenceIsSeenAndItsEndToo(t *testing.T) {
	families(t, func(t *testing.T, a, b election.Watch) {
		s := newScene(t)
		s.watch(a, b)
		s.expect(sighting{"a", election.InSight}, sighting{"b", election.InSight})
		ip(t, "link", "set", "lo", "down")
		s.expect(sighting{"a", election.OutOfSight}, sighting{"b", election.OutOfSight})
		ip(t, "link", "set", "lo", "up")
		addresses(t)
		s.expect(sighting{"a", election.InSight}, sighting{"b", election.InSight})
		if n := testutil.ToFloat64(s.metrics.missed); n != 2 {
			t.Errorf("%v were missed, want 2", n)
		}
	})
}

// Whoever has not the key ends no session and begins none, whatever the packets say;
// nor does whoever is beyond the segment.
func TestForgedPacketsDoNothing(t *testing.T) {
	alone(t)
	a, b := ends(lb.IPv4)
	s := newScene(t)
	s.watch(a, b)
	s.expect(sighting{"a", election.InSight}, sighting{"b", election.InSight})
	forger, err := net.ListenPacket("udp4", b.Local.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Local, DefaultPort))
	send := func(hops int, b []byte) {
		if err := ipv4.NewPacketConn(forger).SetTTL(hops); err != nil {
			t.Fatal(err)
		}
		if _, err := forger.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
	}
	wrong := bfd.NewSession(bfd.Config{
		Transmit: interval, Receive: interval, Multiplier: multiplier,
		Authentication: bfd.Authentication{Type: bfd.MeticulousKeyedSHA1, Keys: []bfd.Key{keyOf(gossipkey.Key{9})}},
	}, 77, 0, func() float64 { return 0 })
	signed, _ := wrong.Tick(0)
	for _, state := range []bfd.State{bfd.AdminDown, bfd.Down} {
		send(ttl, bfd.Append(nil, bfd.Packet{State: state, Multiplier: 3, Mine: 77, DesiredTx: interval, RequiredRx: interval}))
	}
	send(ttl, signed)
	send(ttl, wrong.Close())
	send(64, signed)
	send(ttl, []byte("short"))
	deadline := time.Now().Add(20 * time.Second)
	for {
		unsigned, foreign := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(dropUnsigned)), testutil.ToFloat64(s.metrics.dropped.WithLabelValues(dropForeign))
		if unsigned == 4 && foreign == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v unsigned packets and %v from beyond the segment were dropped, want 4 and 1", unsigned, foreign)
		}
		time.Sleep(time.Millisecond)
	}
	if len(s.seen) > 0 {
		t.Errorf("told: %v", <-s.seen)
	}
	// The session goes on: it sees the other end go.
	s.watch(a)
	s.expect(sighting{"a", election.NoSight})
}

func TestTheKeyOfSessionsIsNotThatOfGossip(t *testing.T) {
	if keyOf(gossipkey.Key{1}) == keyOf(gossipkey.Key{2}) {
		t.Error("two keys of gossip make one of sessions")
	}
	one, again := keyOf(key), keyOf(key)
	auth := func(k bfd.Key) *bfd.Session {
		return bfd.NewSession(bfd.Config{Transmit: interval, Receive: interval, Multiplier: 3, Authentication: bfd.Authentication{Type: bfd.MeticulousKeyedSHA1, Keys: []bfd.Key{k}}}, 1, 0, func() float64 { return 0 })
	}
	for name, c := range map[string]struct {
		k    bfd.Key
		want error
	}{
		"derived from the same":  {again, nil},
		"the key itself":         {bfd.NewKey(1, string(key[:])), bfd.ErrDigest},
		"derived from another's": {keyOf(gossipkey.Key{7}), bfd.ErrDigest},
	} {
		s := auth(one)
		b, _ := auth(c.k).Tick(0)
		s.Receive(b, 0)
		if got := s.Refusal(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestSoundingsBeginAndEndAsTheyAreWanted(t *testing.T) {
	s := newScene(t)
	q := election.SegmentQuestion{Interface: 2, Target: netip.MustParseAddr("2001:db8::2"), MAC: lb.MAC{2}}
	r := q
	r.Target = netip.MustParseAddr("192.0.2.2")
	s.Set(election.Ring{Soundings: []election.SegmentQuestion{q}}, nil)
	if got := <-s.sounded; got != q {
		t.Errorf("%v, want %v", got, q)
	}
	s.Set(election.Ring{Soundings: []election.SegmentQuestion{q, r}}, nil)
	if got := <-s.sounded; got != r {
		t.Errorf("%v, want %v alone: the other goes on", got, r)
	}
	s.Set(election.Ring{}, nil)
	s.Set(election.Ring{Soundings: []election.SegmentQuestion{q}}, nil)
	s.stop() // waits for all
}
