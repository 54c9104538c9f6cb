package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
)

// DefaultPort is the port of gossip, UDP and TCP.
const DefaultPort = 7870

// A Config is what a Membership needs to know.
type Config struct {
	// Node is this node's name.
	Node string
	// Bind is the node's own address to gossip on.
	Bind netip.Addr
	// Port is the same on all nodes; 0 is DefaultPort.
	Port uint16
	// Keys encrypt gossip (AES-256-GCM). All nodes accept what each of them sends with.
	Keys gossipkey.Ring
	// Size is how many speakers to expect; it sets the pace of gossip. 0 takes
	// the pace of a small cluster.
	Size int
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.Node == "" || len(c.Node) > maxNode {
		errs = append(errs, fmt.Errorf("node name %q: want 1 to %d bytes", c.Node, maxNode))
	}
	if !c.Bind.IsValid() || c.Bind.IsUnspecified() || c.Bind.Is4In6() || c.Bind.Zone() != "" {
		errs = append(errs, fmt.Errorf("gossip address %v: want an address of the node that the others reach", c.Bind))
	}
	if c.Keys.Send.None() {
		errs = append(errs, errors.New("gossip has no key"))
	}
	return errors.Join(errs...)
}

// Local is what this node says of itself.
type Local = election.Local

// A Confirmer asks a suspect's kernel and its speaker on the segments it announces
// on. It returns within about 60 ms, and when ctx is done. It is called from
// several goroutines.
type Confirmer interface {
	Confirm(ctx context.Context, q election.Question) election.Reply
}

// A Watcher runs the sessions by which speakers watch each other.
type Watcher interface {
	// Set replaces who is watched. Seen is called when what a session sees has
	// changed. Neither waits.
	Set(ring election.Ring, seen func(election.Watch, election.Sight))
}

// A Membership is this node's part in gossip.
type Membership struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	confirm Confirmer
	watcher Watcher
	pace    pace
	border  *border
	// open opens the transport, suspended is how long the machine was suspended so far;
	// seams for tests.
	open      func(netip.AddrPort, *border) (memberlist.NodeAwareTransport, error)
	suspended func() time.Duration

	changed chan struct{}
	members atomic.Pointer[[]election.Member]
	blocked atomic.Pointer[[]election.Blocked]
	// ring is what is in use.
	ring *ring
	// state is what a peer is told in an exchange: encoded records, this
	// node's first.
	state atomic.Pointer[[][]byte]
	// ack is what this node's acks bring along.
	ack atomic.Pointer[[]byte]
	// watched is set while this node can be watched.
	watched atomic.Bool
	inbox   inbox
	news    *memberlist.TransmitLimitedQueue
	size    atomic.Int32 // Listed members, for news.
	room    atomic.Int64 // How many of them there may be.
}

// New returns a Membership; Run runs it. A nil confirmer knows nothing, and without a
// watcher failures are detected by gossip alone.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer, confirm Confirmer, watcher Watcher) (*Membership, error) {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Membership{
		cfg: cfg, log: log, metrics: newMetrics(reg), confirm: confirm, watcher: watcher, pace: paceFor(cfg.Size),
		open: open, suspended: suspended, changed: make(chan struct{}, 1),
		inbox: inbox{kick: make(chan struct{}, 1)},
	}
	m.border, m.ring = newBorder(m.metrics.dropped), newRing(cfg.Keys)
	m.news = &memberlist.TransmitLimitedQueue{RetransmitMult: 2, NumNodes: func() int { return int(m.size.Load()) }}
	m.size.Store(1)
	m.room.Store(int64(election.Room(0)))
	m.members.Store(&[]election.Member{{Node: cfg.Node, Address: cfg.Bind, State: election.Joining}})
	m.blocked.Store(&[]election.Blocked{})
	m.state.Store(&[][]byte{})
	m.ack.Store(&[]byte{})
	return m, nil
}

// Publish replaces what this node says of itself. It does not block; the others
// are told at once.
func (m *Membership) Publish(local Local) {
	local = copyOf(local)
	if m.watcher == nil {
		local.Detection = lb.DetectStandard
	}
	m.inbox.post(func(l *loop) {
		l.view.SetLocal(local)
		if watched := local.Detection == lb.DetectFast; m.watched.Swap(watched) != watched {
			l.renew()
		}
	})
}

// SetPeers replaces the addresses at which other speakers should be; this
// node's own may be among them. They are called for ever. Until SetPeers was
// called once, this node is election.Joining.
func (m *Membership) SetPeers(peers []netip.Addr) {
	peers = slices.Clone(peers)
	for i := range peers {
		peers[i] = peers[i].Unmap()
	}
	m.border.setPeers(peers)
	m.metrics.expected.Set(float64(len(peers)))
	m.room.Store(int64(election.Room(len(peers))))
	m.inbox.post(func(l *loop) { l.view.SetPeers(l.now(), peers) })
}

// Members returns the living members sorted by name, this one included. The
// result is shared and must not be changed.
func (m *Membership) Members() []election.Member { return *m.members.Load() }

// Blocked returns the nodes to which gossip is blocked though their speakers are there.
// The result is shared and must not be changed.
func (m *Membership) Blocked() []election.Blocked { return *m.blocked.Load() }

// Changed has a value after Members or Blocked changed.
func (m *Membership) Changed() <-chan struct{} { return m.changed }

// Run takes part until ctx is done, then leaves. It returns early only when it
// cannot start.
func (m *Membership) Run(ctx context.Context) error {
	p := m.pace
	if err := p.Validate(); err != nil {
		return err
	}
	start := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &loop{
		m: m, ctx: ctx, bind: m.cfg.Bind, start: start,
		// Greater than at this node's last start, or corrected by the others'
		// memory of it.
		view: election.NewView(m.cfg.Node, m.cfg.Bind, uint64(start.UnixNano()), p.view()),
		slow: make(chan struct{}, atOnce), quick: make(chan struct{}, atOnce), deaf: p.slow - 2*heartbeat,
		exchanges: map[netip.Addr]int{}, streams: map[netip.Addr]bool{}, heard: map[string]heard{},
	}
	l.perform(l.view.Settle(0)) // So that there is a record to hand over.
	if err := l.begin(); err != nil {
		return err
	}
	l.run()
	cancel()
	l.farewell()
	err := l.end()
	l.wg.Wait()
	return err
}

// Move takes part at another address of the node from now on, as soon as the node has
// it. It does not block.
func (m *Membership) Move(addr netip.Addr) {
	m.inbox.post(func(l *loop) { l.move(addr.Unmap()) })
}

// An inbox holds what the loop has to do. Whoever posts never waits:
// memberlist calls under its own lock.
type inbox struct {
	mu    sync.Mutex
	todo  []func(*loop)
	heard int // How many of todo came from the network.
	kick  chan struct{}
}

// inboxDepth bounds what waits from the network (docs/design/gossip.md).
const inboxDepth = 8192

func (i *inbox) post(f func(*loop)) { i.add(f, 0) }

// offer posts something that came from the network; it reports whether there
// was room.
func (i *inbox) offer(f func(*loop)) bool { return i.add(f, 1) }

func (i *inbox) add(f func(*loop), heard int) bool {
	i.mu.Lock()
	if i.heard+heard > inboxDepth {
		i.mu.Unlock()
		return false
	}
	i.heard += heard
	i.todo = append(i.todo, f)
	i.mu.Unlock()
	select {
	case i.kick <- struct{}{}:
	default:
	}
	return true
}

func (i *inbox) take() []func(*loop) {
	i.mu.Lock()
	defer i.mu.Unlock()
	todo := i.todo
	i.todo, i.heard = nil, 0
	return todo
}

// A delegate is what memberlist calls.
type delegate struct {
	m *Membership

	mu    sync.Mutex
	alive map[string]bool // The members that memberlist has.
}

func newDelegate(m *Membership) *delegate { return &delegate{m: m, alive: map[string]bool{}} }

// NotifyAlive refuses members beyond what there is room for.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.alive[n.Name] && int64(len(d.alive)) > d.m.room.Load() { // This node is one of them.
		d.m.metrics.dropped.WithLabelValues(dropOverflow).Inc()
		return errTooManyMembers
	}
	return nil
}

var errTooManyMembers = errors.New("more members than this cluster can have")

// NodeMeta returns what this node understands; 512 bytes would not hold what it has to
// say. Speakers that know nothing of it ignore it.
func (d *delegate) NodeMeta(int) []byte {
	if d.m.watched.Load() {
		return []byte{metaWatched}
	}
	return nil
}

// NotifyMsg takes a record, or a word about a third member.
func (d *delegate) NotifyMsg(b []byte) {
	b = slices.Clone(b)
	if !d.m.inbox.offer(func(l *loop) { l.receive(b) }) {
		d.m.metrics.dropped.WithLabelValues(dropOverflow).Inc()
	}
}

// GetBroadcasts returns news to pass on.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.m.news.GetBroadcasts(overhead, limit)
}

// AckPayload returns this node's record. Pings go round all members for ever, so
// whatever loss swallowed is repaired within a round.
func (d *delegate) AckPayload() []byte { return *d.m.ack.Load() }

// NotifyPingComplete takes an ack that came in a packet from the member itself, and the
// record that it brought.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, b []byte) {
	name := n.Name
	if !d.m.inbox.offer(func(l *loop) { l.receiveAck(name, b) }) {
		d.m.metrics.dropped.WithLabelValues(dropOverflow).Inc()
	}
}

// LocalState returns all this node knows, for an exchange.
func (d *delegate) LocalState(bool) []byte {
	var b []byte
	for _, encoded := range *d.m.state.Load() {
		b = appendFramed(b, encoded)
	}
	return b
}

// MergeRemoteState takes all that another node knows.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	b = slices.Clone(b)
	d.m.inbox.post(func(l *loop) { l.receiveState(b) })
}

// NotifyJoin is told of a member that lives.
func (d *delegate) NotifyJoin(n *memberlist.Node) {
	name := n.Name
	d.mu.Lock()
	d.alive[name] = true
	d.mu.Unlock()
	addr, _ := netip.AddrFromSlice(n.Addr)
	watchable := isWatchable(n.Meta)
	d.m.inbox.post(func(l *loop) {
		l.view.Heard(l.now(), name, addr.Unmap())
		l.view.Watchable(name, watchable)
	})
}

// NotifyUpdate is told of new node meta.
func (d *delegate) NotifyUpdate(n *memberlist.Node) {
	name, watchable := n.Name, isWatchable(n.Meta)
	d.m.inbox.post(func(l *loop) { l.view.Watchable(name, watchable) })
}

// NotifyLeave is told of a member that gossip lost, or that left.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	name := n.Name
	d.mu.Lock()
	delete(d.alive, name)
	d.mu.Unlock()
	d.m.inbox.post(func(l *loop) { l.view.Lost(l.now(), name) })
}

// publishMembers stores the list and tells those who wait.
func (m *Membership) publishMembers(list []election.Member) {
	m.members.Store(&list)
	m.metrics.count(list)
	at := make([]netip.Addr, len(list))
	for i, l := range list {
		at[i] = l.Address
	}
	m.border.setMembers(at)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// copyOf returns local with slices of its own, within what a record can carry,
// in a fixed order.
func copyOf(local Local) Local {
	c := Local{Leaving: local.Leaving, Detection: local.Detection, Addresses: local.Addresses, Owned: slices.Clone(local.Owned), Offered: slices.Clone(local.Offered)}
	told := func(all []lb.Interface, most int) (out []lb.Interface) {
		for _, i := range all[:min(len(all), most)] {
			i.Addresses = slices.Clone(i.Addresses[:min(len(i.Addresses), maxPrefixes)])
			i.Up, i.Carrier = true, true
			i.Loopback, i.NoARP, i.Enslaved = false, false, false
			out = append(out, i)
		}
		return out
	}
	c.Management = told(local.Management, maxManagement)
	c.Interfaces = told(local.Interfaces, maxInterfaces-len(c.Management))
	c.Sessions = slices.Clone(local.Sessions)
	slices.Sort(c.Sessions)
	c.Sessions = slices.Compact(c.Sessions)
	c.Sessions = c.Sessions[:min(len(c.Sessions), maxSessions)]
	slices.SortFunc(c.Owned, netip.Addr.Compare)
	c.Owned = slices.Compact(c.Owned)
	slices.SortFunc(c.Offered, netip.Addr.Compare)
	c.Owned = c.Owned[:min(len(c.Owned), maxClaims-1)]
	return c
}
