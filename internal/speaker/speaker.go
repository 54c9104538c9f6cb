package speaker

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/pulse"
)

// A Cluster is what the API server holds.
type Cluster interface {
	// Synced is closed once everything has been read.
	Synced() <-chan struct{}
	// Changed has a value after something has changed.
	Changed() <-chan struct{}
	// Snapshot returns the whole, which is not changed afterwards, and whether
	// anything in it differs from the last.
	Snapshot() (s lb.Snapshot, changed bool)
}

// A Link answers and announces on the wire.
type Link interface {
	// Set installs the complete set of claims. When it returns, they are answered:
	// other speakers are told of them afterwards, and may then stop.
	Set([]layer2.Claim)
	// Announce announces one of them afresh.
	Announce(netip.Addr)
	// Interfaces are the node's; Changed has a value after they changed.
	Interfaces() []lb.Interface
	Changed() <-chan struct{}
	// Heard delivers other stations' use of claimed addresses.
	Heard() <-chan layer2.Heard
	// Defend claims one of them against a stranger, with a single packet.
	Defend(netip.Addr)
	// Detect asks on an interface's segment which addresses others than ours use.
	Detect(ctx context.Context, ifindex int, addresses []netip.Addr, ours func(lb.MAC) bool) ([]layer2.Heard, error)
	// Probe asks a station on an interface's segment for its own address.
	Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error)
}

// A Membership is this node's part in gossip. None of its methods waits.
type Membership interface {
	Publish(election.Local)
	SetPeers([]netip.Addr)
	Members() []election.Member
	Changed() <-chan struct{}
}

// A Config is what a Speaker needs to know.
type Config struct {
	// Node is this node's name.
	Node string
	// Gossip is the address it gossips on; peers are called at their address of
	// the same family.
	Gossip   netip.Addr
	Announce announce.Options
	// BGP holds the sessions with routers; nil for none. Grace is how long they
	// have to find another way before this node goes.
	BGP   Peering
	Grace time.Duration
	// PeerEvent records an Event about a BGPPeer, without waiting; nil: nobody
	// cares.
	PeerEvent func(peer string, e Event)
	// Pulse is that of the announcement loop; nil: nobody asks.
	Pulse *pulse.Pulse
}

const (
	// urgent is the least time between two passes for what moves addresses:
	// members and interfaces. The first event of a burst waits for none of it.
	urgent = 5 * time.Millisecond
	// leisurely is the same for news from the API server.
	leisurely = 100 * time.Millisecond
	// idle is how many times longer than a pass for the API server's news took
	// we wait until the next, but no longer than latest, so that a busy cluster
	// never busies us.
	idle   = 60
	latest = time.Second
	// linger bounds how long an address handed over is still answered for
	// while its successor has not been heard on the wire.
	linger = 250 * time.Millisecond
	// farewell bounds how long a speaker that leaves answers for what nobody
	// takes over.
	farewell = time.Second
	// defence is the least time between two announcements of an address in
	// answer to another speaker's.
	defence = time.Second
	// greeting is the least time between two questions to a speaker that was
	// heard on the wire though it is no member.
	greeting = 200 * time.Millisecond
)

// A Speaker decides what its node announces, and has it done.
type Speaker struct {
	cfg     Config
	cluster Cluster
	link    Link
	members Membership
	herald  *herald
	router  *router
	board   *board
	log     *slog.Logger
	metrics *metrics

	errands sync.WaitGroup // questions under way

	// What follows belongs to the goroutine of Run.
	dirty    bool      // the cluster has changed since it was read
	readable time.Time // when it may be read again
	wanted   bool      // a pass is
	passed   time.Time // when the last pass ended
	index    *announce.Index
	peers    []netip.Addr
	said     election.Local
	decided  []election.Member // upon these members:
	intent   announce.Intent
	offered  []netip.Addr
	failback election.Failback
	met      map[string]bool             // the nodes that were heard
	holding  map[netip.Addr]layer2.Claim // until another node claims them
	leftover map[netip.Addr]leftover
	// answered are the held addresses whose new owner was heard on the wire.
	answered  map[netip.Addr]bool
	contested []netip.Addr
	stations  map[lb.MAC]string   // the nodes' interfaces, also of those gone
	speakers  map[string]*station // by node, also those gone
	defended  map[netip.Addr]time.Time
	holdoff   election.Holdoff
	acd       layer2.ACD
	vetted    chan vetted
	revet     time.Time // when there is something to ask again; never when not
	served    map[string]election.Claims
	nodes     []lb.Node
	strangers strangers
}

// A leftover is an address that another node owns by now.
type leftover struct {
	claim layer2.Claim
	until time.Time
}

// A station is another node's speaker.
type station struct {
	address netip.Addr
	member  bool
	greeted time.Time
	// lost is since when it was not well; zero while it is.
	lost time.Time
}

// New returns a Speaker that does nothing until Run.
func New(cfg Config, cluster Cluster, link Link, members Membership, reporter Reporter, log *slog.Logger, reg prometheus.Registerer) *Speaker {
	m := newMetrics(reg)
	if cfg.Pulse == nil {
		cfg.Pulse = pulse.New("the announcement loop", pulse.Patience)
	}
	return &Speaker{
		cfg: cfg, cluster: cluster, link: link, members: members, log: log, metrics: m,
		dirty:     true,
		board:     newBoard(),
		herald:    newHerald(cfg.Node, reporter, log, m),
		router:    newRouter(cfg, log, reg),
		holding:   map[netip.Addr]layer2.Claim{},
		leftover:  map[netip.Addr]leftover{},
		answered:  map[netip.Addr]bool{},
		stations:  map[lb.MAC]string{},
		speakers:  map[string]*station{},
		defended:  map[netip.Addr]time.Time{},
		strangers: newStrangers(),
		vetted:    make(chan vetted),
		revet:     never,
		served:    map[string]election.Claims{},
		met:       map[string]bool{},
	}
}

// Run announces until ctx is done, then hands over what it owns and returns. The
// link and the membership must outlive it.
func (s *Speaker) Run(ctx context.Context) {
	if !s.await(ctx) {
		return
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); s.herald.run(writing) }()
	defer func() { stop(); <-done; s.errands.Wait() }()

	defer s.retire()
	routed := make(chan struct{})
	go func() { defer close(routed); s.router.run(ctx) }()
	defer func() { <-routed }()

	s.loop(ctx, present)
	s.log.Info("leaving: handing over", "addresses", len(s.intent.Claims))
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	s.loop(last, leaving)
	s.link.Set(nil)
	s.publish(election.Local{Leaving: true})
	s.log.Info("stopped answering")
}

// await waits until the cluster is known: before that, nothing could be decided
// that would not be regretted.
func (s *Speaker) await(ctx context.Context) bool {
	select {
	case <-s.cluster.Synced():
		return true
	case <-ctx.Done():
		return false
	}
}

// A stage is a part of a Speaker's life.
type stage uint8

const (
	present stage = iota
	leaving
)

// loop does what is due until ctx is done, or, when leaving, until there is
// nothing left to hand over.
func (s *Speaker) loop(ctx context.Context, at stage) {
	defer s.cfg.Pulse.Begin()()
	s.wanted = true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if now := time.Now(); !now.Before(s.due()) {
			s.step(now, at)
			s.inquire(ctx, now, at)
		}
		if at == leaving && !s.wanted && len(s.holding) == 0 && len(s.leftover) == 0 {
			return
		}
		timer.Stop()
		if due := s.due(); due.Before(never) {
			timer.Reset(time.Until(due))
		}
		changed := s.cluster.Changed()
		if s.dirty {
			changed = nil // that is known: be woken when it may be read
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			s.dirty = true
		case <-s.members.Changed():
			s.wanted = s.wanted || !s.confirmed(at)
		case <-s.link.Changed():
			s.wanted = true
		case <-s.router.moved:
			s.wanted = true
		case h := <-s.link.Heard():
			s.hear(ctx, h)
		case v := <-s.vetted:
			s.settle(time.Now(), v)
		case a := <-s.strangers.known:
			s.introduce(a)
		case <-s.cfg.Pulse.Asked():
		case <-timer.C:
		}
	}
}

// never is when nothing will be due.
var never = time.Unix(1<<40, 0)

// due returns when there is something to do.
func (s *Speaker) due() time.Time {
	due := never
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if s.wanted {
		sooner(s.passed.Add(urgent))
	}
	if s.dirty {
		sooner(s.readable)
	}
	for _, l := range s.leftover {
		sooner(l.until)
	}
	sooner(s.revet)
	if at, waits := s.holdoff.Due(); waits {
		sooner(at)
	}
	sooner(s.strangers.due())
	return due
}

// step does what is due.
func (s *Speaker) step(start time.Time, at stage) {
	reads := s.dirty && !start.Before(s.readable)
	changed := reads && s.read()
	if reads && !changed {
		s.herald.wake() // perhaps a condition is what changed
	}
	expired := s.holdoff.Expire(start)
	for _, l := range s.leftover {
		expired = expired || !start.Before(l.until)
	}
	if changed || expired || s.wanted && !start.Before(s.passed.Add(urgent)) {
		s.wanted = false
		s.pass(start, at)
		s.passed = time.Now()
		s.metrics.passes.Observe(s.passed.Sub(start).Seconds())
	}
	s.judge(start)
	if end := time.Now(); reads {
		s.readable = end.Add(min(max(leisurely, idle*end.Sub(start)), latest))
	}
}

// confirmed reports whether the news of members only confirm what was decided.
func (s *Speaker) confirmed(at stage) bool {
	members := s.present(s.link.Interfaces(), at)
	if !s.intent.Confirms(s.decided, members, s.cfg.Node) {
		return false
	}
	s.decided = members
	s.serve(members)
	s.reannounce(members)
	s.herald.tell(s.view())
	return true
}

// read takes in what the API server holds, and reports whether it is anything
// new.
func (s *Speaker) read() bool {
	s.dirty = false
	snapshot, changed := s.cluster.Snapshot()
	if !changed {
		return false
	}
	before := s.index
	s.nodes = snapshot.Nodes
	snapshot.Nodes = withSelf(snapshot.Nodes, s.cfg.Node)
	s.router.tell(snapshot)
	s.index = announce.NewIndex(snapshot, s.cfg.Announce)
	s.failback.Forget(s.index.Uses)
	s.adopt(before)
	var peers []netip.Addr
	for _, n := range s.nodes {
		i := slices.IndexFunc(n.Addresses, func(a netip.Addr) bool { return lb.FamilyOf(a) == lb.FamilyOf(s.cfg.Gossip) })
		if i >= 0 {
			peers = append(peers, n.Addresses[i])
		}
	}
	if s.peers == nil || !slices.Equal(peers, s.peers) {
		s.peers = append([]netip.Addr{}, peers...)
		s.members.SetPeers(peers)
	}
	return true
}

// withSelf returns nodes, by name, with this one in any case. A node whose
// object is deleted drains: its speaker answers until another does.
func withSelf(nodes []lb.Node, self string) []lb.Node {
	i, there := slices.BinarySearchFunc(nodes, self, func(n lb.Node, name string) int { return cmp.Compare(n.Name, name) })
	if there {
		return nodes
	}
	return slices.Insert(slices.Clone(nodes), i, lb.Node{Name: self, Drain: true})
}

// pass decides and carries out.
func (s *Speaker) pass(now time.Time, at stage) {
	interfaces := s.link.Interfaces()
	members := s.present(interfaces, at)
	s.know(now, members)
	before := s.intent
	s.serve(members)
	s.intent = announce.Decide(s.index, members, &s.holdoff, s.cfg.Node)
	s.decided = members
	s.vet(now, at)
	s.expect(now, members)
	s.offered = s.offers(members)
	s.track(now, s.offered, before.Claims)

	claims := s.claims()
	s.link.Set(claims)
	var owned []netip.Addr
	for _, c := range s.intent.Claims {
		if s.acd.Cleared(c.Address) {
			owned = append(owned, c.Address)
		}
	}
	s.publish(election.Local{Interfaces: s.announcing(interfaces), Leaving: at == leaving, Owned: owned, Offered: s.offered})
	s.reannounce(members)
	s.herald.tell(s.view())
	s.board.show(State{Index: s.index, Interfaces: interfaces, Members: members, Claims: claims})
	s.metrics.count(before, s.intent, members, s.cfg.Node, s.acd.Withheld(), s.silence)
}

// view is what the last pass decided, for the herald.
func (s *Speaker) view() view {
	return view{index: s.index, intent: s.intent, members: s.decided, offered: s.offered, held: s.acd.Withheld()}
}

// offers returns the addresses that are to go to the nodes where they are placed.
func (s *Speaker) offers(members []election.Member) []netip.Addr {
	for _, m := range members {
		if m.State == election.Alive && !s.met[m.Node] {
			s.met[m.Node] = true
		}
	}
	var offered []netip.Addr
	for _, v := range s.intent.Decisions {
		met := v.Role == election.Owner && v.Placed != s.cfg.Node && s.met[v.Placed] // else it does not matter
		if s.acd.Cleared(v.Address) && s.failback.Offers(v.Address, s.cfg.Node, v.Role, v.Placed, v.Failback, v.Fit, met) {
			offered = append(offered, v.Address)
		}
	}
	return offered
}

// present returns the members, with what is known about this node itself up to
// date: gossip learns it from us.
func (s *Speaker) present(interfaces []lb.Interface, at stage) []election.Member {
	members := slices.Clone(s.members.Members())
	for i := range members {
		if members[i].Node == s.cfg.Node {
			members[i].Interfaces, members[i].Carriers = interfaces, *s.router.established.Load()
			if at == leaving {
				members[i].State = election.Leaving
			}
		}
	}
	return members
}

// track notices what was handed over since the last pass, and lets go of what
// is handed over for good.
func (s *Speaker) track(now time.Time, offered []netip.Addr, before []layer2.Claim) {
	next := make(map[netip.Addr]layer2.Claim, len(s.holding))
	claims := s.intent.Claims
	for _, v := range s.intent.Decisions {
		if v.Role == election.Backup {
			held, was := s.holding[v.Address]
			if !was && v.Barred {
				// Another heard before us that we may not have it any more, and claims
				// it: its socket may be younger than its claim, here too.
				held, was = claimOf(before, v.Address)
			}
			if was && v.Owner != "" && !s.answered[v.Address] {
				s.leftover[v.Address] = leftover{held, now.Add(linger)}
			}
			if l, is := s.leftover[v.Address]; is && (v.Owner == "" || !now.Before(l.until)) {
				delete(s.leftover, v.Address)
			}
			continue
		}
		if _, offers := slices.BinarySearchFunc(offered, v.Address, netip.Addr.Compare); offers || v.Role == election.Retiring {
			next[v.Address] = claims[0]
		}
		claims = claims[1:] // one for each verdict that is no Backup's
		delete(s.leftover, v.Address)
	}
	for a := range s.leftover {
		if _, inUse := s.intent.Decision(a); !inUse {
			delete(s.leftover, a)
		}
	}
	for a := range s.answered {
		if _, is := next[a]; !is {
			delete(s.answered, a)
		}
	}
	s.holding = next
}

// claimOf finds a claim among those of an intent.
func claimOf(claims []layer2.Claim, a netip.Addr) (layer2.Claim, bool) {
	i, found := slices.BinarySearchFunc(claims, a, func(c layer2.Claim, a netip.Addr) int { return c.Address.Compare(a) })
	if !found {
		return layer2.Claim{}, false
	}
	return claims[i], true
}

// claims returns all that is answered for: what is decided, and what lingers.
func (s *Speaker) claims() []layer2.Claim {
	held := func(c layer2.Claim) bool { return !s.acd.Cleared(c.Address) }
	if len(s.leftover) == 0 && !slices.ContainsFunc(s.intent.Claims, held) {
		return s.intent.Claims
	}
	claims := slices.DeleteFunc(slices.Clone(s.intent.Claims), held)
	for _, l := range s.leftover {
		claims = append(claims, l.claim)
	}
	slices.SortFunc(claims, func(a, b layer2.Claim) int { return a.Address.Compare(b.Address) })
	return claims
}

// publish tells the other speakers, when there is something to tell.
func (s *Speaker) publish(local election.Local) {
	local.Carriers = *s.router.established.Load()
	same := s.said.Leaving == local.Leaving && slices.Equal(s.said.Carriers, local.Carriers) && slices.Equal(s.said.Owned, local.Owned) && slices.Equal(s.said.Offered, local.Offered) &&
		slices.EqualFunc(s.said.Interfaces, local.Interfaces, func(a, b lb.Interface) bool {
			return a.Index == b.Index && a.Name == b.Name && a.MAC == b.MAC && slices.Equal(a.Addresses, b.Addresses)
		})
	if !same {
		s.said = local
		s.members.Publish(local)
	}
}

// announcing returns the interfaces on which an advertisement lets some node
// announce, and that can: what others have to know of.
func (s *Speaker) announcing(interfaces []lb.Interface) []lb.Interface {
	var out []lb.Interface
	for _, i := range interfaces {
		if i.Fault() == lb.InterfaceOK && s.index.Advertises(i.Name) {
			out = append(out, i)
		}
	}
	return out
}

// reannounce announces what another speaker claimed too and has let go of: its
// last words may be what the neighbours remember.
func (s *Speaker) reannounce(members []election.Member) {
	contested := election.Contested(s.cfg.Node, members)
	for _, a := range s.contested {
		if _, still := slices.BinarySearchFunc(contested, a, netip.Addr.Compare); still {
			continue
		}
		if v, _ := s.intent.Decision(a); v.Role == election.Owner {
			s.link.Announce(a)
			s.metrics.wins.Inc()
			s.log.Info("another speaker let go of our address", "address", a)
		}
	}
	s.contested = contested
}

// know remembers who has which interfaces, who is a member, and since when one
// is not well.
func (s *Speaker) know(now time.Time, members []election.Member) {
	for _, other := range s.speakers {
		other.member = false
	}
	for _, m := range members {
		if s.speakers[m.Node] == nil {
			s.speakers[m.Node] = &station{}
		}
		s.speakers[m.Node].address, s.speakers[m.Node].member = m.Address, true
		if m.State != election.Suspected && m.State != election.Stalled {
			s.speakers[m.Node].lost = time.Time{}
		} else if s.speakers[m.Node].lost.IsZero() {
			s.speakers[m.Node].lost = now
		}
		for _, i := range m.Interfaces {
			if s.stations[i.MAC] != m.Node {
				s.stations[i.MAC] = m.Node
			}
		}
	}
	for _, other := range s.speakers {
		if !other.member && other.lost.IsZero() {
			other.lost = now
		}
	}
}

// silence returns how long a node has not been well.
func (s *Speaker) silence(node string) time.Duration {
	if other := s.speakers[node]; other != nil && !other.lost.IsZero() {
		return time.Since(other.lost)
	}
	return 0
}

// greet asks a speaker for its own address that is heard on the wire though
// gossip has lost it: a partition is healing. What matters is not the answer but
// that by question and answer both kernels learn, at once, where the other is.
// They gave up asking each other, and by themselves would do so once a second;
// gossip knocks all the time, and gets through as soon as they know.
func (s *Speaker) greet(ctx context.Context, h layer2.Heard, other *station) {
	if other.member || h.At.Sub(other.greeted) < greeting {
		return
	}
	other.greeted = h.At
	address := other.address
	s.errands.Go(func() {
		if _, err := s.link.Probe(ctx, h.Interface, address, h.MAC); err != nil && ctx.Err() == nil {
			s.log.Debug("cannot ask a speaker that returns", "address", address, "err", err)
		}
	})
}

// hear takes note of another station's use of an address that we answer for.
func (s *Speaker) hear(ctx context.Context, h layer2.Heard) {
	if !h.Kind.Claims() {
		return
	}
	node, known := s.stations[h.MAC]
	if !known {
		s.estrange(ctx, h)
		return
	}
	s.greet(ctx, h, s.speakers[node])
	if h.Kind == layer2.HeardRequest || node == s.cfg.Node {
		return // its kernel uses the address; its speaker claims nothing
	}
	if _, held := s.holding[h.Address]; held {
		s.answered[h.Address] = true
		return
	}
	if l, lingers := s.leftover[h.Address]; lingers {
		l.until = h.At
		s.leftover[h.Address] = l
		return
	}
	// Another speaker claims what is ours. Gossip settles which of us is right;
	// what the neighbours heard last must not be the other's word.
	if v, _ := s.intent.Decision(h.Address); v.Role == election.Owner && h.At.Sub(s.defended[h.Address]) >= defence {
		s.defended[h.Address] = h.At
		s.metrics.rivals.Inc()
		s.link.Announce(h.Address)
	}
}
