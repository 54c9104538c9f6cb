package core

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Config is what a Core has to know from the beginning.
type Config struct {
	// Node is the name of its node.
	Node string
	// Gossip is the address at which it gossips, and its family that at which the
	// others are called. It follows the first address of the Node of that family, unless
	// it is Fixed.
	Gossip   netip.Addr
	Fixed    bool
	Announce eligibility.Options
	// Decide decides who announces; nil: as [announce.Decide] does, by a
	// [announce.Decider].
	Decide func(*announce.Index, []election.Member, *election.Holdoff, string) announce.Intent
	// Detection is how its failure is detected, unless its Node says otherwise.
	Detection lb.Detection
	// ProofInterval is how often the segment is asked about an address that was
	// verified; 0: never, not even once.
	ProofInterval time.Duration
}

// The bounds of what a Core does: docs/design/hand-over.md, and for Pause
// docs/design/pacing.md.
const (
	// Pause is the least time between two decisions on what gossip and the kernel
	// tell, which may come in bursts. The first of a burst waits for none of it.
	Pause = 5 * time.Millisecond
	// Linger bounds how long an address handed over is still answered for while
	// its new owner has not been heard on the wire.
	Linger = 250 * time.Millisecond
	// Farewell bounds how long a node that leaves answers for what no other takes
	// over.
	Farewell = time.Second
	// YieldPause is for how long a node that gives an address up to a better claim
	// goes on claiming it, though it does not answer any more. Whoever wins is to hear
	// that it was contested, so as to announce the address afresh.
	YieldPause = 500 * time.Millisecond
	// RivalPause is the least time between two announcements of an address in
	// answer to another speaker's.
	RivalPause = time.Second
)

// A Core is one speaker's protocol. Its methods are to be called by one goroutine,
// with times that never run back.
type Core struct {
	cfg Config
	out Effects

	// What it was told last.
	index      *announce.Index
	nodes      []lb.Node
	listed     []election.Member // by gossip
	interfaces []lb.Interface
	sessions   []lb.SessionID
	leaving    bool
	farewell   time.Time
	left       bool

	// due is set when there is something to decide, before notBefore if it is
	// urgent.
	due, urgent bool
	decided     time.Time // when the last decision was made; zero for never
	// members are those of the last decision, brought up to date by what confirms
	// it.
	members []election.Member
	intent  announce.Intent
	view    View
	claims  []layer2.Claim
	gossip  election.Local
	peers   []netip.Addr

	// handovers are under way; given are those before the last decision.
	handovers, given map[netip.Addr]handover
	failback         election.Failback
	holdoff          election.Holdoff
	acd              layer2.ACD
	acdDue           time.Time // when there is something to ask; zero for never
	neighbors        neighbors
	conflicts        ConflictTracker
	inquiries        []inquiry
	contested        []netip.Addr
	yielded          map[netip.Addr]time.Time // to a better claim; until when they are claimed
	announced        map[netip.Addr]time.Time // in answer to another speaker
	served           map[string]election.Version
	inherited        bool
	disputes         map[netip.Addr]*dispute
	insisting        map[netip.Addr]insistence
	resumed          map[netip.Addr]string // since the last decision, and who had answered
	proofs           proofs
	requests         requests
}

// A handover is of an address that this node answers for until another one does.
type handover struct {
	claim layer2.Claim
	// answered is set once the new owner was heard on the wire.
	answered bool
	// until is zero while the new owner does not claim the address. After that, it
	// is when to stop though it has not been heard.
	until time.Time
}

// New returns a Core that does nothing until it was told what the cluster is.
func New(cfg Config) *Core {
	if cfg.Decide == nil {
		cfg.Decide = new(announce.Decider).Decide
	}
	return &Core{
		cfg: cfg, handovers: map[netip.Addr]handover{}, neighbors: newNeighbors(), conflicts: newConflictTracker(),
		announced: map[netip.Addr]time.Time{}, yielded: map[netip.Addr]time.Time{}, served: map[string]election.Version{},
		disputes: map[netip.Addr]*dispute{}, insisting: map[netip.Addr]insistence{}, resumed: map[netip.Addr]string{},
		proofs: newProofs(cfg),
	}
}

// Configure says what the API server holds.
func (c *Core) Configure(now time.Time, s lb.Snapshot) {
	before, index := c.index, c.indexOf(s)
	c.index, c.nodes = index, s.Nodes
	c.failback.Forget(c.index.Uses)
	c.adopt(now, before)
	maps.DeleteFunc(c.announced, func(a netip.Addr, _ time.Time) bool { return !c.index.Uses(a) })
	c.due, c.urgent = true, true

	peers, own := []netip.Addr{}, netip.Addr{}
	for _, n := range c.nodes {
		i := slices.IndexFunc(n.Addresses, func(a netip.Addr) bool { return lb.FamilyOf(a) == lb.FamilyOf(c.cfg.Gossip) })
		if i < 0 {
			continue
		}
		peers = append(peers, n.Addresses[i])
		if n.Name == c.cfg.Node {
			own = n.Addresses[i]
		}
	}
	if c.peers == nil || !slices.Equal(peers, c.peers) {
		c.peers, c.out.Peers = peers, peers
	}
	if own.IsValid() && own != c.cfg.Gossip && !c.cfg.Fixed {
		c.cfg.Gossip, c.out.Move = own, own
	}
}

func (c *Core) indexOf(s lb.Snapshot) *announce.Index {
	s.Nodes = WithNode(s.Nodes, c.cfg.Node)
	return announce.NewIndex(s, c.cfg.Announce)
}

// Rehearse decides on what the API server could hold. Nothing comes of it, unless it
// panics: so would Configure, or the Settle after it, which leave everything as it was
// then.
func (c *Core) Rehearse(s lb.Snapshot) {
	c.cfg.Decide(c.indexOf(s), c.present(), nil, c.cfg.Node)
}

// WithNode returns nodes, by name, with the named one in any case. A node whose
// object is deleted drains: its speaker answers until another does.
func WithNode(nodes []lb.Node, name string) []lb.Node {
	i, there := slices.BinarySearchFunc(nodes, name, func(n lb.Node, name string) int { return cmp.Compare(n.Name, name) })
	if there {
		return nodes
	}
	return slices.Insert(slices.Clone(nodes), i, lb.Node{Name: name, Drain: true})
}

// SetMembers says who the members are, by gossip.
func (c *Core) SetMembers(now time.Time, members []election.Member) {
	c.listed = members
	if c.due || c.decided.IsZero() {
		c.due = true
		return
	}
	members = c.present()
	if !c.intent.Confirms(c.members, members, c.cfg.Node) {
		c.due = true
		return
	}
	c.members = members
	c.serve(now, members)
	c.reannounce(members)
	c.excuse()
	c.proofs.stir(now)
	c.view.Members = members
	c.show()
}

// SetInterfaces says which interfaces the node has.
func (c *Core) SetInterfaces(interfaces []lb.Interface) {
	if !slices.EqualFunc(c.interfaces, interfaces, lb.Interface.Equal) {
		c.interfaces, c.due = interfaces, true
	}
}

// SetSessions says which BGP sessions are established, by their numbers, ascending:
// this node tells the others.
func (c *Core) SetSessions(sessions []lb.SessionID) {
	if !slices.Equal(c.sessions, sessions) {
		c.sessions, c.due = sessions, true
	}
}

// Leave says that this node is about to go. It hands over what it answers for.
func (c *Core) Leave(now time.Time) {
	if !c.leaving {
		c.leaving, c.farewell, c.due, c.urgent = true, now.Add(Farewell), true, true
	}
}

// Hear takes note of another station's use of an address that this node answers
// for.
func (c *Core) Hear(now time.Time, h layer2.Heard) {
	if !h.Kind.Claims() || c.left || c.echoes(now, h) {
		return
	}
	node, known := c.neighbors.stations[h.MAC]
	if !known {
		c.suspect(now, h)
		return
	}
	if to, knocks := c.neighbors.knock(now, node); knocks {
		c.out.Knock = append(c.out.Knock, Knock{Station{h.Interface, h.MAC}, to})
	}
	if node == c.cfg.Node {
		return
	}
	c.overhear(now, h, node)
	if h.Kind == layer2.HeardRequest {
		return // its kernel uses the address; its speaker claims nothing
	}
	if o, is := c.handovers[h.Address]; is {
		o.answered = true
		if !o.until.IsZero() {
			o.until = now
		}
		c.handovers[h.Address] = o
		return
	}
	// Another speaker claims what is ours. Gossip settles which of us is right;
	// what the neighbors heard last must not be the other's word.
	switch d, _ := c.intent.Decision(h.Address); {
	case d.Role != election.Owner:
	case c.reaches(node):
		if last, before := c.announced[h.Address]; !before || now.Sub(last) >= RivalPause {
			c.insist(now, h.Address)
		}
	default:
		c.dispute(now, h, node)
	}
}

// Settle does what is due by now, and returns everything to do since it was called
// last. It is to be called after each of the other methods, or after a batch of
// them.
func (c *Core) Settle(now time.Time) Effects {
	if c.index != nil && !c.left {
		if c.holdoff.Expire(now) || c.expired(now) {
			c.due, c.urgent = true, true
		}
		if c.due && !now.Before(c.notBefore()) {
			c.decide(now)
		}
		c.confirm(now)
		c.detect(now)
		c.askDisputed(now)
		c.insistDue(now)
		c.prove(now)
		c.request(now)
		if c.leaving && !c.due && len(c.handovers) == 0 || c.leaving && !now.Before(c.farewell) {
			c.leave(now)
		}
	}
	out := c.out
	c.out = Effects{}
	out.Next, out.Left = c.next(), c.left
	return out
}

// notBefore returns when what is due may be decided.
func (c *Core) notBefore() time.Time {
	if c.urgent || c.decided.IsZero() {
		return time.Time{}
	}
	return c.decided.Add(Pause)
}

// expired reports whether an address was answered for long enough after it was
// handed over, or claimed after it was yielded.
func (c *Core) expired(now time.Time) bool {
	for _, h := range c.handovers {
		if !h.until.IsZero() && !now.Before(h.until) {
			return true
		}
	}
	for _, until := range c.yielded {
		if !now.Before(until) {
			return true
		}
	}
	return false
}

// next returns when to settle again.
func (c *Core) next() (next time.Time) {
	if c.index == nil || c.left {
		return next
	}
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if c.due {
		sooner(c.notBefore())
	}
	for _, h := range c.handovers {
		sooner(h.until)
	}
	if at, waits := c.holdoff.Due(); waits {
		sooner(at)
	}
	sooner(c.conflicts.due())
	sooner(c.nextDispute())
	sooner(c.acdDue)
	sooner(c.proofs.survey)
	sooner(c.proofs.due)
	sooner(c.requests.due())
	for _, until := range c.yielded {
		sooner(until)
	}
	if c.leaving {
		sooner(c.farewell)
	}
	return next
}

// present returns the members, with what is known about this node itself up to
// date: gossip learns it from us.
func (c *Core) present() []election.Member {
	members := slices.Clone(c.listed)
	for i := range members {
		if members[i].Node == c.cfg.Node {
			members[i].Interfaces, members[i].Sessions = c.interfaces, c.sessions
			if c.leaving {
				members[i].State = election.Leaving
			}
		}
	}
	return members
}

// decide decides what this node does.
func (c *Core) decide(now time.Time) {
	c.due, c.urgent = false, false
	members := c.present()
	c.neighbors.meet(now, members)
	c.inherit()
	c.serve(now, members)
	before, known := c.intent, c.members
	c.intent = c.cfg.Decide(c.index, members, &c.holdoff, c.cfg.Node)
	c.members = members
	c.settleDisputes()
	c.probe(now)
	c.await(now)

	offered := c.offers()
	c.handOver(now, offered, known)
	claims, owned := c.answered()
	c.transit(now, before, claims)
	clear(c.resumed)
	if c.decided.IsZero() || !slices.EqualFunc(c.claims, claims, layer2.Claim.Equal) {
		c.claims, c.out.Claims = claims, claims
	}
	yielded := c.stillYielded(now)
	c.publish(election.Local{
		Interfaces: c.announcing(), Management: c.management(), Sessions: c.sessions, Leaving: c.leaving, Owned: union(owned, yielded), Offered: union(offered, yielded),
		Detection: c.detection(), Addresses: c.index.Size(),
	})
	c.reannounce(members)
	c.excuse()
	c.proofs.stir(now)
	c.view = View{
		Index: c.index, Interfaces: c.interfaces, Members: members, Intent: c.intent,
		Answers: c.view.Answers, Offered: offered, Withheld: c.acd.Withheld(), Detection: c.detection(),
		Proofs: c.view.Proofs, Response: c.view.Response,
	}
	c.show()
	c.decided = now
}

// detection is how this node's failure is to be detected.
func (c *Core) detection() lb.Detection {
	i, there := slices.BinarySearchFunc(c.nodes, c.cfg.Node, func(n lb.Node, name string) int { return cmp.Compare(n.Name, name) })
	if there && c.nodes[i].Detection != lb.DetectAsConfigured {
		return c.nodes[i].Detection
	}
	return c.cfg.Detection
}

// show has the view of this moment told.
func (c *Core) show() {
	v := c.view
	c.out.View = &v
}

// offers returns the addresses that are to go to the nodes where they are placed.
func (c *Core) offers() []netip.Addr {
	c.failback.Forget(func(a netip.Addr) bool { d, _ := c.intent.Decision(a); return d.Role != election.Backup })
	var offered []netip.Addr
	for _, i := range c.intent.Mine {
		d := &c.intent.Decisions[i]
		met := d.Role == election.Owner && d.Placed != c.cfg.Node && c.neighbors.met(d.Placed) // else it does not matter
		if c.acd.Cleared(d.Address) && !c.yields(d.Address) && c.failback.Offers(d.Address, c.cfg.Node, d.Role, d.Placed, d.Failback, d.Fit, met) {
			offered = append(offered, d.Address)
		}
	}
	return offered
}

// handOver notices what is given to others since the last decision, of which the
// members were known, and lets go of what was given for good.
func (c *Core) handOver(now time.Time, offered []netip.Addr, known []election.Member) {
	next := make(map[netip.Addr]handover, len(c.handovers))
	for _, i := range c.mine() {
		d := &c.intent.Decisions[i]
		was, is := c.handovers[d.Address]
		if d.Role != election.Backup {
			if c.yields(d.Address) {
				continue // it answers for nothing that it could hand over
			}
			if _, offers := slices.BinarySearchFunc(offered, d.Address, netip.Addr.Compare); offers || d.Role == election.Retiring {
				next[d.Address] = handover{claim: layer2.Claim{Address: d.Address, Interfaces: d.Interfaces}, answered: was.answered && was.until.IsZero()}
			}
			continue
		}
		if !is {
			// Perhaps another one heard before us that we may not have it any more, and
			// claims it: its socket may be younger than its claim, here too.
			was.claim, is = claimOf(c.claims, d.Address)
			is = is && (d.Barred || c.claimed(d.Owner, d.Address) && fresh(known, d.Owner, d.Address))
		}
		switch {
		case !is || d.Owner == "":
		case was.until.IsZero() && !was.answered:
			was.until = now.Add(Linger)
			next[d.Address] = was
		case now.Before(was.until):
			next[d.Address] = was
		}
	}
	c.handovers, c.given = next, c.handovers
}

// mine are the indexes, ascending, of the decisions by which this node answers or has
// answered until now.
func (c *Core) mine() []int {
	all := slices.Clone(c.intent.Mine)
	also := func(a netip.Addr) {
		if i, inUse := c.intent.Find(a); inUse {
			all = append(all, i)
		}
	}
	for _, claim := range c.claims {
		also(claim.Address)
	}
	for a := range c.handovers {
		also(a)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// fresh reports whether a node, which claims an address, was well and did not among
// those members. It claims it on purpose, then, and not because it did not hear
// of us.
func fresh(known []election.Member, node string, a netip.Addr) bool {
	i, listed := find(known, node)
	return listed && known[i].State == election.Alive && known[i].Claims[a].None()
}

// find finds a node among members.
func find(members []election.Member, node string) (int, bool) {
	return slices.BinarySearchFunc(members, node, func(m election.Member, node string) int { return strings.Compare(m.Node, node) })
}

// claimOf finds a claim among some, which are ascending.
func claimOf(claims []layer2.Claim, a netip.Addr) (layer2.Claim, bool) {
	i, found := slices.BinarySearchFunc(claims, a, func(c layer2.Claim, a netip.Addr) int { return c.Address.Compare(a) })
	if !found {
		return layer2.Claim{}, false
	}
	return claims[i], true
}

// answered returns all that is to be answered for, and what of it is claimed.
func (c *Core) answered() (claims []layer2.Claim, owned []netip.Addr) {
	claims = []layer2.Claim{}
	for _, i := range c.mine() {
		d := &c.intent.Decisions[i]
		switch {
		case d.Role == election.Backup:
			if h, lingers := c.handovers[d.Address]; lingers {
				claims = append(claims, h.claim)
			}
		case c.acd.Cleared(d.Address):
			owned = append(owned, d.Address)
			if !c.yields(d.Address) {
				claims = append(claims, layer2.Claim{Address: d.Address, Interfaces: d.Interfaces})
			}
		}
	}
	return claims, owned
}

// stillYielded returns what was yielded just before, and what was yielded to a node that
// gossip has lost again, which may not have heard of it. It is claimed as what is offered
// is, which any other claim beats.
func (c *Core) stillYielded(now time.Time) []netip.Addr {
	maps.DeleteFunc(c.yielded, func(a netip.Addr, until time.Time) bool {
		d, _ := c.intent.Decision(a)
		if d.Role != election.Backup || d.Owner == "" {
			return true
		}
		if !now.Before(until) && !c.reaches(d.Owner) {
			c.yielded[a] = now.Add(RivalPause)
			return false
		}
		return !now.Before(until)
	})
	return slices.Collect(maps.Keys(c.yielded))
}

// union returns addresses, which are ascending, with others among them.
func union(addresses, others []netip.Addr) []netip.Addr {
	if len(others) == 0 {
		return addresses
	}
	all := slices.Concat(addresses, others)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// publish tells the other speakers, when there is something to tell.
func (c *Core) publish(local election.Local) {
	said := &c.gossip
	alike := func(a, b lb.Interface) bool {
		return a.Index == b.Index && a.Name == b.Name && a.MAC == b.MAC && slices.Equal(a.Addresses, b.Addresses)
	}
	same := said.Leaving == local.Leaving && said.Detection == local.Detection && said.Addresses == local.Addresses && slices.Equal(said.Sessions, local.Sessions) && slices.Equal(said.Owned, local.Owned) && slices.Equal(said.Offered, local.Offered) &&
		slices.EqualFunc(said.Interfaces, local.Interfaces, alike) && slices.EqualFunc(said.Management, local.Management, alike)
	if !same {
		c.gossip, c.out.Gossip = local, &local
	}
}

// announcing returns the interfaces on which an advertisement lets some node
// announce, and that can: what others have to know of.
func (c *Core) announcing() []lb.Interface {
	var out []lb.Interface
	for _, i := range c.interfaces {
		if i.Fault() == lb.InterfaceOK && c.index.Advertises(i.Name) {
			out = append(out, i)
		}
	}
	return out
}

// management returns the interface by which this node gossips, if no advertisement lets
// any node announce there.
func (c *Core) management() []lb.Interface {
	for _, i := range c.interfaces {
		if i.Fault() == lb.InterfaceOK && !c.index.Advertises(i.Name) &&
			slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == c.cfg.Gossip }) {
			return []lb.Interface{i}
		}
	}
	return nil
}

// reannounce announces what another speaker claims too, and again once that has let
// go of it: its last words may be what the neighbors remember.
func (c *Core) reannounce(members []election.Member) {
	contested := election.Contested(c.cfg.Node, members)
	owns := func(a netip.Addr) bool { d, _ := c.intent.Decision(a); return d.Role == election.Owner }
	for _, a := range contested {
		if _, before := slices.BinarySearchFunc(c.contested, a, netip.Addr.Compare); !before && owns(a) {
			c.out.Announce = append(c.out.Announce, a)
		}
	}
	for _, a := range c.contested {
		if _, still := slices.BinarySearchFunc(contested, a, netip.Addr.Compare); !still && owns(a) {
			c.out.Announce = append(c.out.Announce, a)
			c.out.Won = append(c.out.Won, a)
		}
	}
	c.contested = contested
}

// serve takes note of the addresses that members claim: they are in service.
func (c *Core) serve(now time.Time, members []election.Member) {
	var since time.Time // long ago, for all we know at first
	if !c.decided.IsZero() {
		since = now
	}
	for _, m := range members {
		if said, known := c.served[m.Node]; known && said == m.Version && m.Version != (election.Version{}) {
			continue
		}
		c.served[m.Node] = m.Version
		for a := range m.Claims {
			if !c.index.Uses(a) {
				continue // not any more, or not yet for all we know
			}
			if m.Node != c.cfg.Node { // what we claim we know
				c.acd.Serve(a, since)
			}
			c.holdoff.Claimed(now, a, m.Node)
		}
	}
}

// await notes who is to claim what is in service and no member claims.
func (c *Core) await(now time.Time) {
	claims := make(map[string]election.Claims, len(c.members))
	for _, m := range c.members {
		claims[m.Node] = m.Claims
	}
	for _, i := range c.intent.Unclaimed {
		d := &c.intent.Decisions[i]
		if d.Role != election.Backup || d.Owner == "" || !claims[d.Owner][d.Address].None() || !c.acd.Served(d.Address) {
			continue
		}
		if !slices.ContainsFunc(c.members, func(m election.Member) bool { return !m.Claims[d.Address].None() }) {
			c.holdoff.Await(now, d.Address, d.Owner)
		}
	}
}

// adopt brings what is known to be in service up to date with the index, which
// replaces another, or none at first. What was announced when this speaker started
// is in service, even if no node is left that announces it ([Core.inherit]); of what
// changes later the claims tell. What comes into being later is left to the node where it is
// placed.
func (c *Core) adopt(now time.Time, before *announce.Index) {
	c.acd.Forget(c.index.Uses)
	c.holdoff.Forget(c.index.Uses)
	clear(c.served) // to be looked at again: claims may be older than news of what they are for
	if c.inherit(); before == nil {
		return
	}
	for a := range c.holdoff.New {
		c.holdoff.Leave(now, a, c.index.Placed(a))
	}
	for _, a := range c.index.Addresses() {
		if !before.Uses(a) && !c.acd.Served(a) {
			c.holdoff.Leave(now, a, c.index.Placed(a))
		}
	}
}

// inherit takes what was announced when this speaker started for what is in service,
// once gossip has reached another one, or there is no other. Before that it may be gossip
// that does not get through, and the segment is asked about every address.
func (c *Core) inherit() {
	if c.inherited || !c.neighbors.joined && len(c.nodes) > 1 {
		return
	}
	c.inherited = true
	for _, a := range c.index.Addresses() {
		if c.index.Announced(a) {
			c.acd.Serve(a, time.Time{})
		}
	}
}

// probe has the addresses asked about that this node is to claim and that are not
// known to be in service.
func (c *Core) probe(now time.Time) {
	var wanted []layer2.Claim
	for _, i := range c.intent.Mine {
		d := &c.intent.Decisions[i]
		switch {
		case d.Role != election.Owner || c.acd.Served(d.Address):
		case d.Conflict == lb.ConflictWithhold:
			wanted = append(wanted, layer2.Claim{Address: d.Address, Interfaces: d.Interfaces})
		default:
			c.acd.Serve(d.Address, now)
		}
	}
	c.acd.Want(now, wanted)
	if !c.leaving {
		c.acdDue = now
	}
}

// leave ends it: this node answers for nothing any more.
func (c *Core) leave(now time.Time) {
	for _, a := range c.view.Answers {
		c.out.Transitions = append(c.out.Transitions, Transition{At: now, Address: a.Address, Kind: Released, Cause: Leaving, From: c.cfg.Node})
	}
	c.left, c.out.Claims = true, []layer2.Claim{}
	c.publish(election.Local{Sessions: c.sessions, Leaving: true})
	c.view = View{Index: c.index, Interfaces: c.interfaces, Members: c.members}
	c.show()
}
