package membership

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
)

// A world is a cluster of real members (this package, memberlist, encryption and
// all) on a LAN without sockets and a virtual clock. Computing takes no time in
// it, so hundreds of members can share one process and not be late.
type world struct {
	t       testing.TB
	seed    uint64
	rand    *rand.Rand
	lan     *lan
	members []*virtual
	history *history
}

// A virtual is one member of it.
type virtual struct {
	*Membership
	world  *world
	host   int
	end    *endpoint
	keys   gossipkey.Ring // None: those of the tests.
	cancel context.CancelFunc
	done   chan error // Nil while it does not run.
	// prepare, if not nil, is called before it is started.
	prepare func(*Membership)
}

func newWorld(t testing.TB, seed uint64) *world {
	return &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 5)), lan: newLAN(seed), history: &history{}}
}

// within runs f in a world of so many members that have found each other.
func within(t *testing.T, seed uint64, size int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed)
		defer w.stop()
		for h := range size {
			w.members = append(w.members, &virtual{world: w, host: h})
		}
		var peers []netip.Addr
		for _, m := range w.members {
			peers = append(peers, w.addr(m.host))
			m.start(peers...)
			time.Sleep(10 * time.Millisecond)
		}
		for _, m := range w.members {
			m.SetPeers(peers)
		}
		w.settle()
		f(w)
	})
}

// addr is a host's address, of IPv6 in worlds of even seeds.
func (w *world) addr(host int) netip.Addr {
	if w.seed%2 == 0 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: 1, 14: byte(host >> 8), 15: byte(host)})
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(host >> 8), byte(host)})
}

func (w *world) node(host int) string { return fmt.Sprintf("node-%03d", host) }

// peers are the addresses of all.
func (w *world) peers() (all []netip.Addr) {
	for h := range w.members {
		all = append(all, w.addr(h))
	}
	return all
}

// start starts the member's process, with power.
func (m *virtual) start(peers ...netip.Addr) {
	w := m.world
	var err error
	log := slog.New(&observer{history: w.history, by: m.host})
	if m.keys == (gossipkey.Ring{}) {
		m.keys = testKeys
	}
	cfg := Config{Node: w.node(m.host), Bind: w.addr(m.host), Keys: m.keys, Size: len(w.members)}
	if m.Membership, err = New(cfg, log, nil, wireSegment{w.lan, cfg.Bind}, nil); err != nil {
		w.t.Fatal(err)
	}
	if m.prepare != nil {
		m.prepare(m.Membership)
	}
	m.end = w.lan.open(netip.AddrPortFrom(cfg.Bind, DefaultPort))
	w.lan.power(cfg.Bind, true)
	m.open = func(netip.AddrPort, *border) (memberlist.NodeAwareTransport, error) { return m.end, nil }
	m.SetPeers(peers)
	m.Publish(Local{Interfaces: m.interfaces(), Owned: m.owned()})
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done = cancel, make(chan error, 1)
	go func() { m.done <- m.Run(ctx) }()
}

func (m *virtual) interfaces() []lb.Interface {
	a := m.world.addr(m.host)
	return []lb.Interface{{
		Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, byte(m.host >> 8), byte(m.host)}, Up: true, Carrier: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen()/2)},
	}}
}

// owned are the addresses that a member answers for: three, of both families.
func (m *virtual) owned() []netip.Addr {
	a := netip.AddrFrom4([4]byte{198, 18, byte(m.host >> 7), byte(m.host << 1)})
	return []netip.Addr{a, a.Next(), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(m.host >> 8), 15: byte(m.host)})}
}

// kill ends the process at once; its kernel lives on.
func (m *virtual) kill() {
	_ = m.end.Shutdown()
	m.cancel()
}

// powerOff takes the host's power.
func (m *virtual) powerOff() {
	m.world.lan.power(m.world.addr(m.host), false)
	m.kill()
}

// stopFor stops the process for a while, as SIGSTOP does.
func (m *virtual) stopFor(d time.Duration) {
	resume := m.end.stop()
	continued := make(chan struct{})
	m.inbox.post(func(*loop) { <-continued })
	time.AfterFunc(d, func() {
		close(continued)
		resume()
	})
}

// ended waits for the end of a process that was killed.
func (m *virtual) ended() {
	if err := <-m.done; err != nil {
		m.world.t.Errorf("%s: %v", m.world.node(m.host), err)
	}
	m.done = nil
}

func (w *world) stop() {
	for _, m := range w.members {
		if m.done != nil {
			m.kill() // That 300 take leave of 299 proves nothing.
		}
	}
	for _, m := range w.members {
		if m.done != nil {
			m.ended()
		}
	}
	time.Sleep(dregs)
}

// dregs is how long memberlist's last probes and streams outlive its Shutdown.
const dregs = 15 * time.Second

// settle waits until every member finds every other alive, and then until a
// moment that nobody has chosen. It returns how long the first took.
func (w *world) settle() time.Duration {
	w.t.Helper()
	begun := time.Now()
	w.await("all find all alive", time.Minute, func() bool {
		for _, m := range w.members {
			list := m.Members()
			if len(list) != len(w.members) || slices.ContainsFunc(list, func(o election.Member) bool { return o.State != election.Alive }) {
				return false
			}
		}
		return true
	})
	took := time.Since(begun)
	time.Sleep(time.Second + time.Duration(w.rand.Int64N(int64(time.Second))))
	return took
}

// await waits until a condition holds.
func (w *world) await(what string, bound time.Duration, holds func() bool) {
	w.t.Helper()
	for begun := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > bound {
			w.fatal(begun, "not within %v: %s", bound, what)
		}
	}
}

// fatal ends the test, telling who saw what since then.
func (w *world) fatal(since time.Time, format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s, seed %d; since then:\n%s", fmt.Sprintf(format, args...), w.seed, w.history.tell(since))
}

// An event is what one member found out about another.
type event struct {
	at       time.Time
	by       int
	what, of string
	reason   string
}

// A history is what all members found out.
type history struct {
	mu     sync.Mutex
	events []event
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// since returns what was found out from a moment on.
func (h *history) since(t time.Time) []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearchFunc(h.events, t, func(e event, t time.Time) int { return e.at.Compare(t) })
	return slices.Clone(h.events[i:])
}

// tell writes it down, up to a screenful.
func (h *history) tell(since time.Time) string { return describe(h.since(since), since) }

// wrong tells of those events only by which somebody was given up.
func (h *history) wrong(since time.Time) string {
	return describe(slices.DeleteFunc(h.since(since), func(e event) bool { return e.what != sawGone }), since)
}

func describe(events []event, since time.Time) string {
	var b strings.Builder
	for i, e := range events {
		if i == 200 {
			fmt.Fprintf(&b, "... and %d more\n", len(events)-i)
			break
		}
		fmt.Fprintf(&b, "%10v  node-%03d: %s: %s %s\n", e.at.Sub(since), e.by, e.what, e.of, e.reason)
	}
	return b.String()
}

// Events that a member tells by its log.
const (
	sawSuspect   = "member suspected"
	sawGone      = "member gone"
	sawRecovered = "member recovered"
)

// An observer is a log handler that keeps what one member says of others.
type observer struct {
	history *history
	by      int
	node    string
}

func (o *observer) Enabled(context.Context, slog.Level) bool { return true }

func (o *observer) WithGroup(string) slog.Handler { return o }

func (o *observer) WithAttrs(as []slog.Attr) slog.Handler {
	c := *o
	for _, a := range as {
		if a.Key == "node" {
			c.node = a.Value.String()
		}
	}
	return &c
}

func (o *observer) Handle(_ context.Context, r slog.Record) error {
	if !strings.HasPrefix(r.Message, "member ") && !strings.HasPrefix(r.Message, "this process") {
		return nil
	}
	e := event{at: r.Time, by: o.by, what: r.Message, of: o.node}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			e.reason = a.Value.String()
		}
		return true
	})
	o.history.add(e)
	return nil
}

// Who was suspended with its machine, so that its own clock did not see it, doubts what
// it owns, as one that was stopped does. One that was suspended for a moment does not.
func TestAMachineThatWasSuspendedDoubtsWhatItOwns(t *testing.T) {
	within(t, 1, 2, func(w *world) {
		sleeper := w.members[0]
		sleeper.kill()
		<-sleeper.done
		var slept atomic.Int64
		sleeper.prepare = func(m *Membership) { m.suspended = func() time.Duration { return time.Duration(slept.Load()) } }
		sleeper.start(w.peers()...)
		a := sleeper.owned()[0]
		claims := func(q election.Quorum) func() bool {
			return func() bool {
				m, _ := find(w.members[1].Members(), w.node(sleeper.host))
				return m.Claims[a].Quorum == q
			}
		}
		w.await("the claim", 5*time.Second, claims(election.Majority))
		slept.Add(int64(time.Second))
		time.Sleep(time.Second)
		if !claims(election.Majority)() {
			t.Error("it doubts after a second")
		}
		slept.Add(int64(2 * time.Minute))
		w.await("the doubt", 500*time.Millisecond, claims(election.Blind))
	})
}

// Members learn by which interface another one gossips, and that it does not announce
// there.
func TestMembersLearnOfManagementInterfaces(t *testing.T) {
	within(t, 2, 2, func(w *world) {
		m := w.members[0]
		m.Publish(Local{Management: m.interfaces()})
		w.await("the management interface", time.Second, func() bool {
			o, _ := find(w.members[1].Members(), w.node(m.host))
			return len(o.Interfaces) == 0 && len(o.Management) == 1 && o.Management[0].MAC == m.interfaces()[0].MAC
		})
	})
}
