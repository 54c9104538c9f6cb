package udp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/lb"
)

var profile = lb.BFDProfile{Receive: 50 * time.Millisecond, Transmit: 50 * time.Millisecond, DetectMultiplier: 3, MinimumTTL: 250}

// patient is profile for sessions that no busy machine is to end: 10 s of silence do.
var patient = func() lb.BFDProfile {
	p := profile
	p.DetectMultiplier = 200
	return p
}()

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
		a, b := watch(t, m, here, patient), watch(t, m, there, patient)
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

// Whoever comes after a Monitor has its ports.
func TestThePortsAreFreeOnceRunReturns(t *testing.T) {
	port := fmt.Sprintf(":%04X ", portSingleHop)
	taken := func() bool {
		text, err := os.ReadFile("/proc/net/udp")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), port)
	}
	if taken() {
		t.Skip("SKIPPED, another program has BFD's port")
	}
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = New(slog.New(slog.DiscardHandler)).Run(ctx) }()
		for end := time.Now().Add(10 * time.Second); !taken(); runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatal("nobody listens after 10 s")
			}
		}
		cancel()
		if <-done; taken() {
			t.Fatal("Run has returned, and its port is not free")
		}
	}
}

func TestSilenceIsAFailure(t *testing.T) {
	m := monitor(t)
	here, there := paths(false)
	// It is the other end's multiplier that counts: b waits for two seconds.
	slower := profile
	slower.DetectMultiplier = 40
	a, b := watch(t, m, here, slower), watch(t, m, there, profile)
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
	// What a says since then names no session, and b waits for what does.
	if c := b.next(t); c.State != bfd.Down || !c.Failed || c.Why != "control detection time expired" {
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

// hearing is a session that takes packets with a TTL of at least so much.
func hearing(minTTL int) *session {
	return &session{in: make(chan []byte, 1), knocks: make(chan []byte, 1), minTTL: minTTL}
}

// A packet must come from the one address, to the one address, over the right
// port, with a TTL that nobody far away can produce, and name our discriminator
// when it names one.
func TestStrangersAreNotHeard(t *testing.T) {
	m := New(slog.New(slog.DiscardHandler))
	single, multi := hearing(255), hearing(250)
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, e := range []struct {
		key   pathKey
		local uint32
		s     *session
	}{
		{pathKey{one, two, false}, 1, single},
		{pathKey{one, two, true}, 2, multi},
		{pathKey{v6, v6.Next(), false}, 3, hearing(255)},
	} {
		m.byLocal[e.local], m.byPath[e.key] = e.s, e.s
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
		m.deliver(bfd.Packet{State: bfd.Up, Yours: c.yours}, nil, c.a, c.multihop)
		for _, s := range []*session{single, multi} {
			in := s.in
			if c.yours == 0 {
				in = s.knocks
			}
			select {
			case <-in:
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

// forger sends packets as somebody who can take the address of the other end of a
// session, with a TTL.
func forger(t testing.TB, from, to netip.Addr, ttl int) (send func([]byte)) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: from.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if from.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, ttl) }); err != nil {
		t.Fatal(err)
	}
	return func(b []byte) {
		if _, err := conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, portSingleHop)); err != nil {
			t.Error(err)
		}
	}
}

// drained waits until all has been read that has come to BFD's port: what the kernel
// drops because there is too much of it proves nothing.
func drained(t *testing.T) {
	t.Helper()
	port := fmt.Sprintf(":%04X", portSingleHop)
	for end := time.Now().Add(10 * time.Second); ; {
		waiting := ""
		for _, file := range []string{"/proc/net/udp", "/proc/net/udp6"} {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], port) && !strings.HasSuffix(f[4], ":00000000") {
					waiting += line
				}
			}
		}
		if waiting == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not read within 10 s:\n%s", waiting)
		}
		runtime.Gosched()
	}
}

// Nothing that somebody sends who can take the router's address, but does not see
// what we send, ends a session. The other end's leave is the first that is heard.
func TestForgedPacketsEndNoSession(t *testing.T) {
	m := monitor(t)
	for _, c := range []struct{ here, there netip.Addr }{
		{one, two},
		{netip.MustParseAddr("::1"), netip.MustParseAddr("::1")},
	} {
		t.Run(c.here.String(), func(t *testing.T) {
			var b *watcher
			a := watch(t, m, Path{Local: c.here, Remote: c.there}, patient)
			if c.here != c.there { // with itself it is up alone
				b = watch(t, m, Path{Local: c.there, Remote: c.here}, patient)
			}
			if c := a.next(t); c.State != bfd.Up {
				t.Fatalf("%+v", c)
			}
			near, far, stranger := forger(t, c.there, c.here, 255), forger(t, c.there, c.here, 254), func([]byte) {}
			if c.here.Is4() {
				stranger = forger(t, netip.MustParseAddr("127.0.0.9"), c.here, 255)
			}
			ours := localOf(m, Path{Local: c.here, Remote: c.there})
			for range 20 {
				for _, state := range []bfd.State{bfd.AdminDown, bfd.Down, bfd.Init, bfd.Up} {
					forged := func(yours uint32) []byte {
						return bfd.Append(nil, bfd.Packet{State: state, Multiplier: 255, Mine: 666, Yours: yours, DesiredTx: time.Hour, RequiredRx: time.Hour})
					}
					for _, b := range [][]byte{forged(0), forged(ours + 1), forged(666)} {
						near(b)
					}
					far(forged(ours))
					stranger(forged(ours))
					for _, spoil := range []func([]byte) []byte{
						func(b []byte) []byte { return b[:23] },
						func(b []byte) []byte { b[2] = 0; return b },
						func(b []byte) []byte { b[3] = 25; return b },
						func(b []byte) []byte { b[0] = 0x40; return b },
						func(b []byte) []byte { return nil },
					} {
						near(spoil(forged(ours)))
					}
				}
				drained(t)
			}
			if b == nil {
				if len(a.changes) != 0 {
					t.Errorf("%+v", <-a.changes)
				}
				return
			}
			b.next(t)
			b.stop()
			if c := a.next(t); c.Failed || c.Why != "the neighbor has taken BFD out of service" {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A session that does not come up is told what may be the cause, unless it is known.
func TestASessionThatStaysDownHasWords(t *testing.T) {
	m := monitor(t)
	m.patience = 10 * time.Millisecond
	six := netip.MustParseAddr("::1")
	signed, passive := profile, profile
	signed.Authentication, signed.Keys = lb.BFDKeyedSHA1, []lb.BFDKey{{ID: 1, Password: lb.NewSecret("key")}}
	passive.Passive = true
	says := func(state bfd.State) []byte {
		return bfd.Append(nil, bfd.Packet{State: state, Multiplier: 3, Mine: 666, DesiredTx: time.Second, RequiredRx: time.Second})
	}
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		multihop bool
		profile  lb.BFDProfile
		// heard is what the other end says, over and over; nil for nothing.
		heard []byte
		words string
	}{
		{"nothing", one, two, false, profile, nil, "no BFD packet comes from 127.0.0.2 to UDP port 3784 with a TTL of 255: does it run BFD with 127.0.0.1, and is the port let through?"},
		{"nothing from afar", two, one, true, profile, nil, "no BFD packet comes from 127.0.0.1 to UDP port 4784 with a TTL of 250 (minimumTtl) or more: does it run BFD with 127.0.0.2, and is the port let through?"},
		{"nothing to a passive end", six, netip.MustParseAddr("::2"), false, passive, nil, "no BFD packet comes from ::2 to UDP port 3784 with a TTL of 255; with passiveMode this end waits for it to begin: does it run BFD with ::1, and is the port let through?"},
		{"it hears nothing", one, two, false, profile, says(bfd.Down), "127.0.0.2 sends BFD packets and hears none of ours: is UDP port 3784 let through, and does it expect them from 127.0.0.1?"},
		{"out of service", one, two, false, profile, says(bfd.AdminDown), "the neighbor has taken BFD out of service"},
		{"signed here only", one, two, false, signed, says(bfd.Down), "the neighbor does not authenticate its packets, and this end does: give it the key, or leave authentication out of the BFDProfile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &watcher{changes: make(chan Change, 64)}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			path := Path{Local: c.from, Remote: c.to, Multihop: c.multihop}
			begin := func() {
				go func() { done <- m.Watch(ctx, path, c.profile, nil, func(c Change) { w.changes <- c }) }()
			}
			if c.heard != nil {
				// Each is in its place before it is asked.
				m.patience = time.Second
				defer func() { m.patience = 10 * time.Millisecond }()
				send := forger(t, c.to, c.from, 255)
				begin()
				for end := time.Now().Add(10 * time.Second); localOf(m, path) == 0; runtime.Gosched() {
					if time.Now().After(end) {
						t.Fatal("no session within 10 s")
					}
				}
				send(c.heard)
			} else {
				begin()
			}
			if got := w.next(t); got != (Change{State: bfd.Down, Why: c.words}) {
				t.Errorf("%+v, want %q", got, c.words)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if len(w.changes) != 0 {
				t.Errorf("then %+v", <-w.changes)
			}
		})
	}
}

// The least TTL follows the profile while the session runs.
func TestMinimumTTLFollowsTheProfile(t *testing.T) {
	m := monitor(t)
	path := Path{Local: one, Remote: two, Multihop: true}
	w := watch(t, m, path, profile)
	least := func(want int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			m.mu.Lock()
			got := -1
			if s := m.byPath[pathKey{one, two, true}]; s != nil {
				got = s.minTTL
			}
			m.mu.Unlock()
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d after 10 s, want %d", got, want)
			}
		}
	}
	least(250)
	stricter := profile
	stricter.MinimumTTL = 254
	w.profiles <- stricter
	least(254)
}

// Two ends that sign change their key step by step, and no packet is lost for it;
// with another text under the same number the session ends, and the reason is told.
func TestKeysChangeWithoutInterruption(t *testing.T) {
	m := monitor(t)
	older, newer := lb.BFDKey{ID: 1, Password: lb.NewSecret("older")}, lb.BFDKey{ID: 2, Password: lb.NewSecret("newer")}
	for _, how := range []lb.BFDAuthentication{lb.BFDKeyedSHA1, lb.BFDMeticulousKeyedSHA1} {
		here, there := paths(how == lb.BFDKeyedSHA1)
		signed := func(keys ...lb.BFDKey) lb.BFDProfile {
			p := profile // two seconds of silence, or eight before the session has found its pace
			p.Transmit, p.Receive, p.DetectMultiplier = 250*time.Millisecond, 250*time.Millisecond, 8
			p.Authentication, p.Keys = how, keys
			return p
		}
		a, b := watch(t, m, here, signed(older)), watch(t, m, there, signed(older))
		for _, w := range []*watcher{a, b} {
			if c := w.next(t); c.State != bfd.Up {
				t.Fatalf("%+v", c)
			}
		}
		for _, keys := range [][]lb.BFDKey{{older, newer}, {newer, older}, {newer}} {
			// The second value waits until the first has been taken.
			for _, w := range []*watcher{a, b, a, b} {
				w.profiles <- signed(keys...)
			}
		}
		a.profiles <- signed(lb.BFDKey{ID: 2, Password: lb.NewSecret("other")})
		c := a.next(t)
		if c.State != bfd.Down || !c.Failed {
			t.Errorf("%+v", c)
		}
		for c.Why != "the neighbor's signature is wrong: its key has another text" {
			c = a.next(t)
		}
		a.stop()
		b.stop()
	}
}

// localOf is the discriminator of the session on a path; 0 when there is none.
func localOf(m *Monitor, p Path) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.byPath[pathKey{p.Local, p.Remote, p.Multihop}]
	for local, other := range m.byLocal {
		if s != nil && other == s {
			return local
		}
	}
	return 0
}

// The sessions on a path have one discriminator, one after the other; those on others,
// and those of another life, have others.
func TestASessionThatBeginsAgainHasItsDiscriminator(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	keys := []pathKey{{one, two, false}, {two, one, false}, {one, two, true}, {six, six.Next(), false}}
	first, again, other := New(slog.New(slog.DiscardHandler)), New(slog.New(slog.DiscardHandler)), New(slog.New(slog.DiscardHandler))
	again.secret = first.secret
	seen := map[uint32]pathKey{}
	for _, key := range keys {
		local, err := first.enlist(key, hearing(255))
		if err != nil || local == 0 {
			t.Fatal(local, err)
		}
		if k, ok := seen[local]; ok {
			t.Errorf("%v and %v have %d", k, key, local)
		}
		seen[local] = key
		first.strike(key, local)
		if l, err := first.enlist(key, hearing(255)); l != local || err != nil {
			t.Errorf("%v: first %d, then %d, %v", key, local, l, err)
		}
		// Another session has it already.
		again.byLocal[local] = hearing(255)
		if l, err := again.enlist(key, hearing(255)); l == local || l == 0 || err != nil {
			t.Errorf("%v: %d twice, %v", key, l, err)
		}
		if l, err := other.enlist(key, hearing(255)); l == local || err != nil {
			t.Errorf("%v: %d in another life, %v", key, l, err)
		}
	}
}

// A session whose process was stopped reads what came meanwhile before it judges.
func TestAProcessThatWasStoppedBlamesNobody(t *testing.T) {
	m := monitor(t)
	// The one that is stopped is waited for; it does not wait long itself.
	hasty := profile
	hasty.DetectMultiplier = 8
	for i := range 4 { // whether a timer or a packet is seen first is chance
		here, there := Path{Local: one, Remote: netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})}, Path{Local: netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), Remote: one}
		up := make(chan struct{})
		changes := make(chan Change, 64)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- m.Watch(ctx, here, patient, nil, func(c Change) {
				if changes <- c; c.State == bfd.Up {
					<-up
				}
			})
		}()
		b := watch(t, m, there, hasty)
		if c := b.next(t); c.State != bfd.Up {
			t.Fatalf("%+v", c)
		}
		m.mu.Lock()
		in := m.byPath[pathKey{one, here.Remote, false}].in
		m.mu.Unlock()
		// These come in more than the 400 ms after which it would give up.
		for end := time.Now().Add(10 * time.Second); len(in) < cap(in); runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d packets within 10 s", len(in))
			}
		}
		close(up)
		for end := time.Now().Add(10 * time.Second); len(in) > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d packets unread after 10 s", len(in))
			}
		}
		b.stop()
		for _, want := range []Change{{State: bfd.Up}, {State: bfd.Down, Why: "the neighbor has taken BFD out of service"}} {
			select {
			case c := <-changes:
				if c != want {
					t.Errorf("%+v, want %+v", c, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no %+v within 10 s", want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A packet that is there when the timer expires counts, whichever is seen first.
func TestWhatHasComeCountsBeforeSilence(t *testing.T) {
	s := bfd.NewSession(ConfigOf(profile), 1, 0, func() float64 { return 0 })
	in := &session{in: make(chan []byte, 16)}
	says := func(state bfd.State, poll bool) []byte {
		return bfd.Append(nil, bfd.Packet{State: state, Poll: poll, Multiplier: 3, Mine: 2, Yours: 1, DesiredTx: 50 * time.Millisecond, RequiredRx: 50 * time.Millisecond})
	}
	s.Receive(says(bfd.Init, false), 0)
	late := s.DetectionTime() + time.Millisecond
	in.in <- says(bfd.Up, true)
	in.in <- says(bfd.Up, false)
	answers := 0
	in.catchUp(s, late, func([]byte) { answers++ })
	if s.Tick(late); s.State() != bfd.Up || answers != 1 || len(in.in) != 1 {
		t.Errorf("%v, %d answers, %d packets left", s.State(), answers, len(in.in))
	}
}

func TestPacketsGoBeforeOthers(t *testing.T) {
	for _, local := range []netip.Addr{one, netip.MustParseAddr("::1")} {
		conn, err := open(Path{Local: local, Remote: local})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		level, option := unix.IPPROTO_IP, unix.IP_TOS
		if local.Is6() {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		var got, marked int
		_ = raw.Control(func(fd uintptr) {
			got, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY)
			marked, _ = unix.GetsockoptInt(int(fd), level, option)
		})
		if got != 6 || marked != 0xc0 {
			t.Errorf("%v: priority %d, class %#x", local, got, marked)
		}
	}
}

// What ICMP said of one packet does not keep the next from being sent.
func TestARefusedPacketIsFollowedByTheNext(t *testing.T) {
	for _, to := range []netip.Addr{two, netip.MustParseAddr("::1")} {
		conn, err := open(Path{Local: map[bool]netip.Addr{true: one, false: to}[to.Is4()], Remote: to})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		l, err := net.ListenUDP("udp", &net.UDPAddr{IP: to.AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		at := l.LocalAddr().(*net.UDPAddr).AddrPort()
		l.Close() // nobody is there
		for range 3 {
			if _, err := conn.WriteToUDPAddrPort([]byte("refused"), at); err != nil {
				t.Errorf("%v: %v", to, err)
			}
		}
		if l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := conn.WriteToUDPAddrPort([]byte("heard"), at); err != nil {
			t.Errorf("%v: %v", to, err)
		}
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 16)
		if n, err := l.Read(b); err != nil || string(b[:n]) != "heard" {
			t.Errorf("%v: %q, %v", to, b[:n], err)
		}
	}
}

// BenchmarkFlood measures what a packet costs that somebody sends in order to cost
// something: the processor time of all but the sender, whose time on loopback
// includes the kernel's part of receiving. No session ends.
func BenchmarkFlood(b *testing.B) {
	m := New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	changes := make(chan Change, 64)
	for _, p := range []Path{{Local: one, Remote: two}, {Local: two, Remote: one}} {
		wg.Go(func() { _ = m.Watch(ctx, p, patient, nil, func(c Change) { changes <- c }) })
	}
	defer wg.Wait()
	defer cancel()
	for range 2 {
		if c := <-changes; c.State != bfd.Up {
			b.Fatalf("%+v", c)
		}
	}
	for _, c := range []struct {
		name  string
		from  netip.Addr
		ttl   int
		yours uint32
	}{
		{"from afar", two, 254, 0},
		{"from a stranger", netip.MustParseAddr("127.0.0.9"), 255, 1},
		{"for no session", two, 255, 1},
		{"naming none", two, 255, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			send := forger(b, c.from, one, c.ttl)
			packet := bfd.Append(nil, bfd.Packet{State: bfd.Down, Multiplier: 3, Mine: 666, Yours: c.yours, DesiredTx: time.Second, RequiredRx: time.Second})
			used := func() time.Duration { return processor(b, unix.RUSAGE_SELF) - processor(b, unix.RUSAGE_THREAD) }
			before := used()
			for b.Loop() {
				send(packet)
			}
			b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/packet")
			if len(changes) > 0 {
				b.Errorf("%+v", <-changes)
			}
		})
	}
}

func processor(t testing.TB, who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
	if !reflect.DeepEqual(ConfigOf(profile), bfd.Config{Transmit: 50 * time.Millisecond, Receive: 50 * time.Millisecond, Multiplier: 3}) {
		t.Error(fmt.Sprint(ConfigOf(profile)))
	}
}
