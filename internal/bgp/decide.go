package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A Phase says how far a node has got with taking its leave.
type Phase uint8

// Phases.
const (
	// Serving is the normal state.
	Serving Phase = iota
	// Leaving still advertises everything, as the last resort: with the
	// GRACEFUL_SHUTDOWN community (RFC 8326) and local preference 0.
	Leaving
	// Left advertises nothing.
	Left
)

// String returns the phase in a word.
func (p Phase) String() string { return [...]string{"serving", "leaving", "left"}[p] }

// PhaseAt returns the phase at now of a node that was asked to drain at since,
// and when that phase ends; zero when it does not by itself.
func PhaseAt(drain bool, since, now time.Time, grace time.Duration) (Phase, time.Time) {
	end := since.Add(grace)
	switch {
	case !drain:
		return Serving, time.Time{}
	case now.Before(end):
		return Leaving, end
	default:
		return Left, time.Time{}
	}
}

// Options are what Decide depends on beside the snapshot.
type Options struct {
	// IgnoreExcludeLB lets nodes advertise that are labeled
	// node.kubernetes.io/exclude-from-external-load-balancers.
	IgnoreExcludeLB bool
	// Phase is that of the node, which may be drained.
	Phase Phase
	// Stop is that of the speaker, which may be about to end and to return. A
	// peer with graceful restart does not take part: it goes on sending traffic
	// here while the speaker is away.
	Stop Phase
	// Recent are the Services whose ready endpoints of a family on this node came
	// or went so recently that what carries the traffic (kube-proxy) may not have
	// noticed.
	Recent map[ServiceFamily]bool
	// Interfaces are the node's, among whose addresses next hops are chosen.
	Interfaces []lb.Interface
}

// A ServiceFamily is a Service as far as one family of its traffic is concerned.
type ServiceFamily struct {
	Service lb.ServiceKey
	Family  lb.Family
}

// phase returns how far our leave of a peer is.
func (o Options) phase(p lb.BGPPeer) Phase {
	if p.GracefulRestart != nil {
		return o.Phase
	}
	return max(o.Phase, o.Stop)
}

// A Reason says why an address is advertised, or what is in the way. They are
// ordered: the greater, the nearer to being advertised.
type Reason uint8

// Reasons.
const (
	// NodeAddress: a Node has the address for itself.
	NodeAddress Reason = iota
	// NoAdvertisement: no BGPAdvertisement selects the pool and every Service.
	NoAdvertisement
	// NodeNotSelected: one does, but not this node.
	NodeNotSelected
	// NoPeer: this node has no BGPPeer that the advertisement is for.
	NoPeer
	// FamilyNotOffered: no such peer has the address's family.
	FamilyNotOffered
	// NodeExcluded: the node has the well-known label.
	NodeExcluded
	// NetworkUnavailable: the node's condition says so.
	NetworkUnavailable
	// Drained: the node has left.
	Drained
	// NoEndpoint: no endpoint is usable anywhere.
	NoEndpoint
	// NoLocalEndpoint: none on this node, and traffic must stay local.
	NoLocalEndpoint
	// Advertised.
	Advertised
)

var reasons = [...]string{
	"NodeAddress", "NoAdvertisement", "NodeNotSelected", "NoPeer", "FamilyNotOffered", "NodeExcluded", "NetworkUnavailable",
	"Drained", "NoEndpoint", "NoLocalEndpoint", "Advertised",
}

// String returns the reason as conditions and metrics spell it.
func (r Reason) String() string { return reasons[r] }

var sentences = [...]string{
	"the address is a node's own",
	"no BGPAdvertisement selects the pool and every Service that uses the address",
	"no BGPAdvertisement that selects the address selects this node",
	"this node has no BGPPeer to advertise the address to",
	"no BGPPeer of this node carries the address's family",
	"the node is labeled " + lb.LabelExcludeLB,
	"the node's network is unavailable",
	"the node is draining",
	"no endpoint of the address's family is ready",
	"no endpoint of the address's family on this node is ready, and externalTrafficPolicy is Local",
	"advertised",
}

// Sentence returns the reason in words on which a person can act.
func (r Reason) Sentence() string { return sentences[r] }

// A Verdict is what became of one address on this node.
type Verdict struct {
	Address netip.Addr
	Reason  Reason
	// Peers are the names of those it is advertised to, ascending.
	Peers []string
}

// A Session is a session that this node is to hold, and all it is to say there.
type Session struct {
	Peer lb.BGPPeer
	// RouterID is our BGP identifier in it.
	RouterID netip.Addr
	// Routes are sorted by prefix; what is absent is withdrawn.
	Routes []Route
	// Interfaces are those of the node, among whose addresses next hops are chosen.
	// All sessions share them.
	Interfaces []HostInterface
}

// A Conflict says that an advertisement contradicts an older one about a
// prefix, and so does not apply to it.
type Conflict struct {
	Advertisement, Older string
	// Attribute is what they disagree on, in the API's spelling.
	Attribute string
	// Prefix is the first such prefix, and Peer the first such peer.
	Prefix netip.Prefix
	Peer   string
}

// String returns the conflict in words.
func (c Conflict) String() string {
	if c.Attribute == communities {
		return fmt.Sprintf("%s to %s would have more than %d communities with those of the older BGPAdvertisement %s", c.Prefix, c.Peer, MaxCommunities, c.Older)
	}
	return fmt.Sprintf("%s of %s to %s contradicts the older BGPAdvertisement %s", c.Attribute, c.Prefix, c.Peer, c.Older)
}

// MaxCommunities is how many communities a route of advertisements may have. Large
// ones take 12 octets each, which leaves room for all other attributes in the 4,096 of
// a message; gobgp cannot be given more than fits (docs/design/gobgp.md).
const MaxCommunities = 256

// An Intent is everything a node wants of BGP. It is complete.
type Intent struct {
	// Sessions are by peer name.
	Sessions []Session
	// Verdicts are by address.
	Verdicts []Verdict
	// Conflicts are by advertisement; each pair once.
	Conflicts []Conflict
	// Rivals are peers that this node holds no session for, because an older one
	// is for the same router; by name.
	Rivals []Rival
}

// A Rival is a peer that an older one stands in the way of.
type Rival struct{ Peer, Older string }

// Internal reports whether a peer is in our own autonomous system.
func Internal(p lb.BGPPeer) bool {
	return p.Kind == lb.PeerInternal || p.PeerASN == p.LocalAS()
}

// Families returns the families that a session is to carry.
func Families(p lb.BGPPeer) []lb.Family {
	switch {
	case len(p.Families) > 0:
		return p.Families
	case p.Interface != "":
		return []lb.Family{lb.IPv4, lb.IPv6}
	default:
		return []lb.Family{lb.FamilyOf(p.Address)}
	}
}

// Decide returns what a node is to tell each of its peers, and why not.
//
// An address is advertised when an advertisement selects its pool, every Service
// that shares it and the node, and the node is fit and has somewhere to send the
// traffic: for externalTrafficPolicy Local an endpoint of its own, terminating
// ones included. When there are only those here and ready ones elsewhere, the
// route says that it is about to go (RFC 8326), so that a prefix leaves a node
// only after the traffic has. A route that is new says the same while there are
// others, so that traffic comes only when it can be carried.
// An unknown node holds no session. The order of the snapshot's slices does not
// matter.
func Decide(s lb.Snapshot, node string, o Options) Intent {
	i := slices.IndexFunc(s.Nodes, func(n lb.Node) bool { return n.Name == node })
	if i < 0 {
		return Intent{}
	}
	var intent Intent
	d := decision{options: o, node: s.Nodes[i], ads: oldestFirst(s.BGPAdvertisements), origins: origin.New(s.Pools, s.Nodes)}
	d.peers, intent.Rivals = peersOf(s.BGPPeers, d.node)
	d.routes = make([]map[netip.Prefix]*statement, len(d.peers))
	for i := range d.routes {
		d.routes[i] = map[netip.Prefix]*statement{}
	}

	for _, g := range groups(s.Services, d.origins) {
		intent.Verdicts = append(intent.Verdicts, d.judge(g))
	}
	conflicts, here := map[[2]string]Conflict{}, HostInterfaces(s, node, o.Interfaces)
	for i, p := range d.peers {
		intent.Sessions = append(intent.Sessions, Session{p, RouterID(p, d.node), d.table(i, conflicts), here})
	}
	for _, c := range conflicts {
		intent.Conflicts = append(intent.Conflicts, c)
	}
	slices.SortFunc(intent.Conflicts, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Advertisement, b.Advertisement), cmp.Compare(a.Older, b.Older))
	})
	return intent
}

// peersOf returns the peers of a node, by name, and those that an older one keeps
// it from having.
func peersOf(all []lb.BGPPeer, node lb.Node) (peers []lb.BGPPeer, rivals []Rival) {
	for _, p := range byAge(all, func(p lb.BGPPeer) (time.Time, string) { return p.Created, p.Name }) {
		if !selects(p.NodeSelectors, node.Labels) {
			continue
		}
		if i := slices.IndexFunc(peers, p.SameRouter); i >= 0 {
			rivals = append(rivals, Rival{p.Name, peers[i].Name})
			continue
		}
		peers = append(peers, p)
	}
	slices.SortFunc(rivals, func(a, b Rival) int { return cmp.Compare(a.Peer, b.Peer) })
	slices.SortFunc(peers, func(a, b lb.BGPPeer) int { return cmp.Compare(a.Name, b.Name) })
	return peers, rivals
}

func oldestFirst(ads []lb.BGPAdvertisement) []lb.BGPAdvertisement {
	return byAge(ads, func(a lb.BGPAdvertisement) (time.Time, string) { return a.Created, a.Name })
}

// A decision is the state of one call of Decide.
type decision struct {
	options Options
	node    lb.Node
	origins *origin.Index
	ads     []lb.BGPAdvertisement // oldest first
	peers   []lb.BGPPeer          // by name
	// routes has, for each peer, what is said of each prefix.
	routes []map[netip.Prefix]*statement
}

// A statement collects what advertisements say of one prefix to one peer.
type statement struct {
	ads []int // indexes, ascending: oldest first
	// endpoints are the ready endpoints on this node of every Service behind
	// the prefix, by Service, since an aggregate or a shared address has many.
	endpoints map[lb.ServiceKey]int
	// staying is set when the traffic of an address behind the prefix should come
	// here, rather than to other nodes if it can.
	staying bool
}

// A group is one address and the Services that share it.
type group struct {
	address  netip.Addr
	services []*lb.Service
	node     string // that has the address for itself; empty for none
}

// groups collects the Services by address, ascending. Addresses in a Service's status
// that are not ours are none.
func groups(services []lb.Service, origins *origin.Index) []group {
	byAddress := map[netip.Addr][]*lb.Service{}
	for i := range services {
		if s := &services[i]; !s.Released && !s.Foreign {
			for _, a := range s.Assigned {
				if origins.Of(s, a).Standing != origin.Foreign {
					byAddress[a] = append(byAddress[a], s)
				}
			}
		}
	}
	out := make([]group, 0, len(byAddress))
	for a, s := range byAddress {
		out = append(out, group{a, s, origins.Node(a)})
	}
	slices.SortFunc(out, func(a, b group) int { return a.address.Compare(b.address) })
	return out
}

// judge decides over one address and enters its prefixes into the tables.
func (d *decision) judge(g group) Verdict {
	v := Verdict{Address: g.address}
	nearest := NodeAddress // the least
	unfit, ending := d.unfit(), d.ending(g)
	if unfit == Advertised {
		unfit = g.idle(d.node.Name)
	}
	offered := d.offers(g, func(peer, ad int) {
		reason := unfit
		if unfit > Drained && d.options.phase(d.peers[peer]) == Left {
			reason = Drained
		}
		nearest = max(nearest, reason)
		if reason != Advertised {
			return
		}
		d.state(peer, ad, prefixOf(&d.ads[ad], g.address), g, ending)
		name := d.peers[peer].Name
		if at, found := slices.BinarySearch(v.Peers, name); !found {
			v.Peers = slices.Insert(v.Peers, at, name)
		}
	})
	v.Reason = max(offered, nearest)
	return v
}

// offers calls each for every advertisement and peer by which an address may go
// out on the node, and returns how near to that it came when there are none, at
// most FamilyNotOffered; otherwise the greatest reason is up to each.
func (d *decision) offers(g group, each func(peer, ad int)) Reason {
	if g.node != "" {
		return NodeAddress
	}
	reason, family := NoAdvertisement, lb.FamilyOf(g.address)
	for i := range d.ads {
		ad := &d.ads[i]
		if !d.selectsServices(ad, g) {
			continue
		}
		if !selects(ad.NodeSelectors, d.node.Labels) {
			reason = max(reason, NodeNotSelected)
			continue
		}
		reason = max(reason, NoPeer)
		for j := range d.peers {
			p := &d.peers[j]
			if len(ad.Peers) > 0 && !slices.Contains(ad.Peers, p.Name) {
				continue
			}
			reason = FamilyNotOffered
			if slices.Contains(Families(*p), family) {
				each(j, i)
			}
		}
	}
	return reason
}

// unfit returns what keeps the node from advertising anything, or Advertised.
func (d *decision) unfit() Reason {
	_, excluded := d.node.Labels[lb.LabelExcludeLB]
	switch {
	case excluded && !d.options.IgnoreExcludeLB:
		return NodeExcluded
	case d.node.NetworkUnavailable:
		return NetworkUnavailable
	default:
		return Advertised
	}
}

// idle returns Advertised when an address's traffic has an endpoint to go to from
// a node, or why not.
func (g group) idle(node string) Reason {
	reason, family := NoEndpoint, lb.FamilyOf(g.address)
	for _, s := range g.services {
		endpoints := s.Endpoints.Of(family)
		switch {
		case endpoints.Serving(s.TrafficPolicy, node) > lb.Idle:
			return Advertised
		case endpoints.Serving(lb.TrafficCluster, "") > lb.Idle:
			reason = NoLocalEndpoint
		}
	}
	return reason
}

// ending reports whether the traffic of an address should rather go to other nodes,
// though this one takes what comes: what it has for it terminates while others are
// ready, or has only just become ready while others serve. What has just changed
// counts as it was before.
func (d *decision) ending(g group) bool {
	elsewhere, family := false, lb.FamilyOf(g.address)
	for _, s := range g.services {
		endpoints := s.Endpoints.Of(family)
		here, recent := endpoints[d.node.Name], d.options.Recent[ServiceFamily{s.Key, family}]
		if s.TrafficPolicy != lb.TrafficLocal || (here.Ready > 0) != recent {
			return false
		}
		for node, c := range endpoints {
			elsewhere = elsewhere || node != d.node.Name && (c.Ready > 0 || recent && c.Terminating > 0)
		}
	}
	return elsewhere
}

// selectsServices reports whether an advertisement selects every Service that
// shares an address, and the pools that it came from.
func (d *decision) selectsServices(ad *lb.BGPAdvertisement, g group) bool {
	for _, s := range g.services {
		if !selects(ad.ServiceSelectors, s.Labels) {
			return false
		}
		if len(ad.Pools) == 0 && len(ad.PoolSelectors) == 0 {
			continue
		}
		name := d.origins.Of(s, g.address).Pool
		if slices.Contains(ad.Pools, name) {
			continue
		}
		pool := d.origins.Pool(name)
		if pool == nil || !lb.MatchesAny(ad.PoolSelectors, pool.Labels) {
			return false
		}
	}
	return true
}

// state enters that an advertisement gives a prefix to a peer.
func (d *decision) state(peer, ad int, prefix netip.Prefix, g group, ending bool) {
	st := d.routes[peer][prefix]
	if st == nil {
		st = &statement{}
		d.routes[peer][prefix] = st
	}
	st.staying = st.staying || !ending
	if at, found := slices.BinarySearch(st.ads, ad); !found {
		st.ads = slices.Insert(st.ads, at, ad)
	}
	if !d.ads[ad].WeightByEndpoints {
		return
	}
	if st.endpoints == nil {
		st.endpoints = map[lb.ServiceKey]int{}
	}
	for _, s := range g.services {
		st.endpoints[s.Key] = s.Endpoints.Of(lb.FamilyOf(g.address))[d.node.Name].Ready
	}
}

// table returns the routes for a peer, by prefix.
func (d *decision) table(peer int, conflicts map[[2]string]Conflict) []Route {
	routes := make([]Route, 0, len(d.routes[peer]))
	for prefix, st := range d.routes[peer] {
		routes = append(routes, Route{prefix, d.attributes(peer, prefix, st, conflicts)})
	}
	slices.SortFunc(routes, func(a, b Route) int { return ComparePrefix(a.Prefix, b.Prefix) })
	return routes
}

// attributes unites what advertisements say of a prefix. Where two contradict
// each other the younger does not apply.
func (d *decision) attributes(peer int, prefix netip.Prefix, st *statement, conflicts map[[2]string]Conflict) Attributes {
	var a Attributes
	internal := Internal(d.peers[peer])
	// What was said, and by which advertisement.
	var said [len(disputable)]Metric
	var by [len(disputable)]int
	weigh, last := false, st.ads[0]
	for _, i := range st.ads {
		ad := &d.ads[i]
		union := unite(a.Communities, ad.Communities)
		if len(union) > MaxCommunities {
			note(conflicts, Conflict{ad.Name, d.ads[last].Name, communities, prefix, d.peers[peer].Name})
			continue
		}
		claims := [len(disputable)]Metric{optional(ad.LocalPref, internal), optional(ad.MED, true), prepend(ad.ASPathPrepend, !internal)}
		contradicted := -1
		for c, claim := range claims {
			if claim.Set && said[c].Set && claim != said[c] {
				contradicted = c
				break
			}
		}
		if contradicted >= 0 {
			note(conflicts, Conflict{ad.Name, d.ads[by[contradicted]].Name, disputable[contradicted], prefix, d.peers[peer].Name})
			continue
		}
		for c, claim := range claims {
			if !said[c].Set {
				said[c], by[c] = claim, i
			}
		}
		a.Communities, last = union, i
		weigh = weigh || ad.WeightByEndpoints
	}
	a.LocalPref, a.MED, a.Prepend = said[0], said[1], int(said[2].Value)
	if weigh {
		for _, n := range st.endpoints {
			a.Endpoints += n
		}
		// Routers ignore all weights when one path has none, so a node that
		// only passes traffic on counts as one endpoint.
		a.Endpoints = max(a.Endpoints, 1)
	}
	if d.options.phase(d.peers[peer]) == Leaving || !st.staying {
		a.Communities = unite(a.Communities, []lb.Community{lb.GracefulShutdown})
		if internal {
			a.LocalPref = Some(0)
		}
	}
	return a
}

// unite returns the communities of both, sorted.
func unite(a, b []lb.Community) []lb.Community {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.SortFunc(all, lb.Community.Compare)
	return slices.Compact(all)
}

// disputable are the attributes on which advertisements can contradict each
// other, in the API's spelling. Of communities there can only be too many.
var disputable = [...]string{"localPref", "med", "asPathPrepend"}

const communities = "communities"

// note keeps one conflict for each pair of advertisements: that of the first
// peer and its first prefix.
func note(conflicts map[[2]string]Conflict, c Conflict) {
	key := [2]string{c.Advertisement, c.Older}
	old, known := conflicts[key]
	if !known || cmp.Or(cmp.Compare(c.Peer, old.Peer), ComparePrefix(c.Prefix, old.Prefix)) < 0 {
		conflicts[key] = c
	}
}

func optional(v *uint32, applies bool) Metric {
	if v == nil || !applies {
		return Metric{}
	}
	return Some(*v)
}

func prepend(n int, applies bool) Metric {
	if n <= 0 || !applies {
		return Metric{}
	}
	return Some(uint32(n))
}

// prefixOf returns the prefix in which an advertisement announces an address.
func prefixOf(ad *lb.BGPAdvertisement, a netip.Addr) netip.Prefix {
	bits := ad.AggregationLength
	if a.Is6() {
		bits = ad.AggregationLengthV6
	}
	if bits <= 0 {
		bits = a.BitLen()
	}
	return netip.PrefixFrom(a, min(bits, a.BitLen())).Masked()
}

// selects reports whether one of the selectors matches, or there are none.
func selects(selectors []lb.Selector, labels map[string]string) bool {
	return len(selectors) == 0 || lb.MatchesAny(selectors, labels)
}

// byAge returns a copy sorted by age, then name.
func byAge[T any](in []T, key func(T) (time.Time, string)) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b T) int {
		at, an := key(a)
		bt, bn := key(b)
		return cmp.Or(at.Compare(bt), cmp.Compare(an, bn))
	})
	return out
}
