package udp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/lb"
)

var profile = lb.BFDProfile{Receive: 50 * time.Millisecond, Transmit: 50 * time.Millisecond, DetectMultiplier: 3, MinimumTTL: 250}

// monitor runs a Monitor for one test.
func monitor(t *testing.T) *Monitor {
	t.Helper()
	m := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

// A watcher is a Watch that a test can stop and ask.
type watcher struct {
	changes  chan Change
	profiles chan lb.BFDProfile
	stop     func()
}

func watch(t *testing.T, m *Monitor, p Path, profile lb.BFDProfile) *watcher {
	t.Helper()
	w := &watcher{changes: make(chan Change, 64), profiles: make(chan lb.BFDProfile, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Watch(ctx, p, profile, w.profiles, func(c Change) { w.changes <- c }) }()
	stopped := false
	w.stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			if strings.Contains(err.Error(), "address already in use") {
				t.Skipf("SKIPPED, another program has BFD's port: %v", err)
			}
			t.Error(err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

func (w *watcher) next(t *testing.T) Change {
	t.Helper()
	select {
	case c := <-w.changes:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("nothing changes within 10 s")
		return Change{}
	}
}

var one, two = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")

// paths are both ends of a path on loopback.
func paths(multihop bool) (Path, Path) {
	return Path{Local: one, Remote: two, Multihop: multihop}, Path{Local: two, Remote: one, Multihop: multihop}
}

func TestBothEndsComeUpAndOneLeaves(t *testing.T) {
	m := monitor(t)
	for _, multihop := range []bool{false, true} {
		here, there := paths(multihop)
		a, b := watch(t, m, here, profile), watch(t, m, there, profile)
		for _, w := range []*watcher{a, b} {
			if c := w.next(t); c.State != bfd.Up {
				t.Fatalf("%+v", c)
			}
		}
		b.stop()
		if c := a.next(t); c.State != bfd.Down || c.Failed || c.Why != "the neighbor has taken BFD out of service" {
			t.Errorf("multihop %v: %+v", multihop, c)
		}
		a.stop()
	}
}

func TestSilenceIsAFailure(t *testing.T) {
	m := monitor(t)
	here, there := paths(false)
	a, b := watch(t, m, here, profile), watch(t, m, there, profile)
	if c := a.next(t); c.State != bfd.Up {
		t.Fatalf("%+v", c)
	}
	b.next(t)
	// The path from b is lost: what it sends finds nobody.
	m.mu.Lock()
	for key := range m.byPath {
		if key.local == one {
			delete(m.byPath, key)
		}
	}
	m.mu.Unlock()
	if c := a.next(t); c.State != bfd.Down || !c.Failed || c.Why != "control detection time expired" {
		t.Errorf("%+v", c)
	}
	// And b is told, unless it gives up first.
	if c := b.next(t); c.State != bfd.Down || !c.Failed {
		t.Errorf("%+v", c)
	}
}

func TestAPathIsWatchedOnce(t *testing.T) {
	m := monitor(t)
	here, _ := paths(false)
	w := watch(t, m, here, profile)
	for {
		m.mu.Lock()
		n := len(m.byPath)
		m.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := m.Watch(t.Context(), here, profile, nil, func(Change) {}); err == nil || !strings.Contains(err.Error(), "watched already") {
		t.Errorf("%v", err)
	}
	w.stop()
	if len(m.byPath)+len(m.byLocal) != 0 {
		t.Errorf("%d paths, %d sessions are left", len(m.byPath), len(m.byLocal))
	}
}

// A packet must come from the one address, to the one address, over the right
// port, with a TTL that nobody far away can produce, and name our discriminator
// when it names one.
func TestStrangersAreNotHeard(t *testing.T) {
	m := New(slog.New(slog.DiscardHandler))
	single, multi := &session{in: make(chan bfd.Packet, 1), minTTL: 255}, &session{in: make(chan bfd.Packet, 1), minTTL: 250}
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, e := range []struct {
		key   pathKey
		local uint32
		s     *session
	}{
		{pathKey{one, two, false}, 1, single},
		{pathKey{one, two, true}, 2, multi},
		{pathKey{v6, v6.Next(), false}, 3, &session{in: make(chan bfd.Packet, 1), minTTL: 255}},
	} {
		if err := m.enlist(e.key, e.local, e.s); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		a        arrival
		multihop bool
		yours    uint32
		heard    *session
	}{
		{"first packet", arrival{one, two, 255}, false, 0, single},
		{"by discriminator", arrival{one, two, 255}, false, 1, single},
		{"from one hop farther", arrival{one, two, 254}, false, 1, nil},
		{"several hops", arrival{one, two, 250}, true, 2, multi},
		{"too many hops", arrival{one, two, 249}, true, 2, nil},
		{"from a stranger", arrival{one, v6, 255}, false, 1, nil},
		{"to another address", arrival{two, two, 255}, false, 1, nil},
		{"for another session", arrival{one, two, 255}, false, 2, nil},
		{"for nobody", arrival{one, two, 255}, false, 99, nil},
		{"over the other port", arrival{one, two, 255}, true, 1, nil},
	} {
		m.deliver(bfd.Packet{State: bfd.Up, Yours: c.yours}, c.a, c.multihop)
		for _, s := range []*session{single, multi} {
			select {
			case <-s.in:
				if s != c.heard {
					t.Errorf("%s: heard", c.name)
				}
			default:
				if s == c.heard {
					t.Errorf("%s: not heard", c.name)
				}
			}
		}
	}
}

func TestPacketsGoOutAsTheRFCsWant(t *testing.T) {
	l, err := net.ListenPacket("udp4", "127.0.0.2:3784")
	if err != nil {
		t.Skipf("SKIPPED, another program has BFD's port: %v", err)
	}
	defer l.Close()
	c := ipv4.NewPacketConn(l)
	if err := c.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		t.Fatal(err)
	}
	m := New(slog.New(slog.DiscardHandler))
	here, _ := paths(false)
	watch(t, m, here, profile)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64)
	n, cm, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	port := from.(*net.UDPAddr).Port
	if cm.TTL != 255 || port < firstSourcePort || port > lastSourcePort || n != bfd.PacketLen {
		t.Errorf("%d octets with TTL %d from port %d", n, cm.TTL, port)
	}
	if p, err := bfd.Parse(b[:n]); err != nil || p.State != bfd.Down || p.DesiredTx != time.Second {
		t.Errorf("%v, %v", p, err)
	}
}

func TestProfileChangesWithoutInterruption(t *testing.T) {
	m := monitor(t)
	here, there := paths(false)
	// Patient, for a machine that is busy with other things.
	patient := profile
	patient.DetectMultiplier = 40
	a, b := watch(t, m, here, patient), watch(t, m, there, patient)
	a.next(t)
	b.next(t)
	for i := range 5 {
		p := patient
		p.Transmit, p.Receive = time.Duration(20+30*i)*time.Millisecond, time.Duration(200-30*i)*time.Millisecond
		a.profiles <- p
		time.Sleep(60 * time.Millisecond)
	}
	select {
	case c := <-a.changes:
		t.Errorf("%+v", c)
	case c := <-b.changes:
		t.Errorf("%+v", c)
	default:
	}
	if ConfigOf(profile) != (bfd.Config{Transmit: 50 * time.Millisecond, Receive: 50 * time.Millisecond, Multiplier: 3}) {
		t.Error(fmt.Sprint(ConfigOf(profile)))
	}
}
