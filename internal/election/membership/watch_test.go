package membership

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// watches are the sessions of a member, for which a test speaks.
type watches struct {
	mu   sync.Mutex
	ring election.Ring
	seen func(election.Watch, election.Sight)
	set  chan struct{} // has a value after a change
}

func newWatches() *watches { return &watches{set: make(chan struct{}, 1)} }

// Set replaces them.
func (w *watches) Set(ring election.Ring, seen func(election.Watch, election.Sight)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ring, w.seen = ring, seen
	select {
	case w.set <- struct{}{}:
	default:
	}
}

// watched are the nodes that are.
func (w *watches) watched() (nodes []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.ring.Watches {
		nodes = append(nodes, s.Node)
	}
	slices.Sort(nodes)
	return nodes
}

// await waits until exactly these are watched.
func (w *watches) await(t *testing.T, nodes ...string) {
	t.Helper()
	deadline := time.After(busy * 2 * time.Second)
	for !slices.Equal(w.watched(), nodes) {
		select {
		case <-w.set:
		case <-deadline:
			t.Fatalf("watches %v; want %v", w.watched(), nodes)
		}
	}
}

// say has the session with a node see something.
func (w *watches) say(node string, s election.Sight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, watch := range w.ring.Watches {
		if watch.Node == node {
			w.seen(watch, s)
		}
	}
}

// watching starts a cluster in which the nodes that are listed know of sessions, and the
// first one owns an address.
func watching(t *testing.T, size int, know ...int) (*cluster, []*member) {
	t.Helper()
	c := newCluster(t, size)
	var ms []*member
	for h := 1; h <= size; h++ {
		if slices.Contains(know, h) {
			ms = append(ms, c.startWatching(h, newWatches()))
		} else {
			ms = append(ms, c.start(h))
		}
	}
	for _, m := range ms {
		m.sees("all alive", 10*time.Second, func(list []election.Member) bool {
			return len(list) == size && !slices.ContainsFunc(list, func(m election.Member) bool { return m.State != election.Alive })
		})
	}
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Detection: lb.DetectFast, Owned: []netip.Addr{netip.MustParseAddr("2001:db8:51::1")}})
	return c, ms
}

func TestOnlyWhoKnowsOfSessionsIsWatched(t *testing.T) {
	c, ms := watching(t, 3, 1, 2)
	ms[0].watches.await(t, ms[1].node)
	ms[1].watches.await(t, ms[0].node)
	ms[0].Publish(Local{Interfaces: c.ifaces(1), Detection: lb.DetectStandard, Owned: []netip.Addr{netip.MustParseAddr("2001:db8:51::1")}})
	ms[0].watches.await(t)
	ms[1].watches.await(t)
}

func TestWhoIsMissedAndSilentIsGone(t *testing.T) {
	c, ms := watching(t, 3, 1, 2, 3)
	owner := ms[0]
	for _, m := range ms[1:] {
		m.watches.await(t, owner.node)
		m.watches.say(owner.node, election.InSight)
	}
	c.mu.Lock()
	c.silent[owner.node] = true
	c.mu.Unlock()
	owner.crash()
	for _, m := range ms[1:] {
		m.watches.say(owner.node, election.OutOfSight)
	}
	for _, m := range ms[1:] {
		took := m.sees("owner gone", time.Second, without(owner.node))
		t.Logf("%s: gone after %v", m.node, took)
		m.watches.await(t)
	}
}

// A session that misses a member, and a segment that is silent, are no reason to give
// it up while gossip hears it.
func TestWhoIsMissedAndHeardByGossipStays(t *testing.T) {
	c, ms := watching(t, 3, 1, 2, 3)
	owner, m := ms[0], ms[1]
	m.watches.await(t, owner.node)
	m.watches.say(owner.node, election.InSight)
	c.mu.Lock()
	c.silent[owner.node] = true
	c.mu.Unlock()
	for n := 1; n <= 5; n++ {
		m.watches.say(owner.node, election.OutOfSight)
		m.until("the doubt is cleared", func() bool { return testutil.ToFloat64(m.metrics.cleared) >= float64(n) })
		m.watches.say(owner.node, election.InSight)
	}
	if member, is := find(m.Members(), owner.node); !is || member.State != election.Alive {
		t.Errorf("the owner is %v (listed %v)", member.State, is)
	}
}

// until waits for a fact that nobody tells.
func (m *member) until(what string, is func() bool) {
	m.cluster.t.Helper()
	deadline := time.Now().Add(busy * 2 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			m.cluster.t.Fatalf("%s: not %s", m.node, what)
		}
		time.Sleep(time.Millisecond)
	}
}
