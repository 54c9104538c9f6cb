package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
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
	eligibility.Options
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

// A Decision is what is decided about one address on this node.
type Decision struct {
	Address netip.Addr
	// Reason is Eligible when the address is advertised, and otherwise why not.
	Reason eligibility.Reason
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
	// Decisions are by address.
	Decisions []Decision
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
	d := newDecider(s, o)
	intent.Rivals = d.at(s.BGPPeers, s.Nodes[i])
	d.clear()
	addresses := eligibility.Addresses(s)
	for i := range addresses {
		intent.Decisions = append(intent.Decisions, d.decide(&addresses[i]))
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
		if !lb.Selected(p.NodeSelectors, node.Labels) {
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

// A decider is the state of one call of Decide, or of a Survey for the nodes of a class.
type decider struct {
	options   Options
	ads       []lb.BGPAdvertisement // oldest first
	selection *eligibility.Selection
	node      lb.Node
	peers     []lb.BGPPeer // by name
	// routes has, for each peer, what is said of each prefix.
	routes []map[netip.Prefix]*statement
}

// newDecider returns a decider that is at no node yet.
func newDecider(s lb.Snapshot, o Options) decider {
	d := decider{options: o, ads: byAge(s.BGPAdvertisements, func(a lb.BGPAdvertisement) (time.Time, string) { return a.Created, a.Name })}
	scopes := make([]lb.Scope, len(d.ads))
	for i := range d.ads {
		scopes[i] = d.ads[i].Scope
	}
	d.selection = eligibility.NewSelection(scopes, s.Pools)
	return d
}

// at puts the decider at a node, and returns the rivals of its peers.
func (d *decider) at(all []lb.BGPPeer, node lb.Node) (rivals []Rival) {
	d.node = node
	d.peers, rivals = peersOf(all, node)
	return rivals
}

// clear forgets what was said of prefixes.
func (d *decider) clear() {
	d.routes = make([]map[netip.Prefix]*statement, len(d.peers))
	for i := range d.routes {
		d.routes[i] = map[netip.Prefix]*statement{}
	}
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

// decide decides over one address and enters its prefixes into the tables.
func (d *decider) decide(a *eligibility.Address) Decision {
	v := Decision{Address: a.Addr}
	idle, ending := a.Idle(d.node.Name), d.ending(a)
	fit := d.options.Fitness(&d.node)
	if fit == eligibility.Draining {
		fit = eligibility.Eligible // how far that has got is a matter of each peer
	}
	v.Reason = min(idle, d.offers(a, func(peer, ad int) eligibility.Reason {
		switch {
		case fit != eligibility.Eligible:
			return fit
		case d.options.phase(d.peers[peer]) == Left:
			return eligibility.Draining
		case idle != eligibility.Eligible:
			return idle
		}
		d.state(peer, ad, prefixOf(&d.ads[ad], a.Addr), a, ending)
		name := d.peers[peer].Name
		if at, found := slices.BinarySearch(v.Peers, name); !found {
			v.Peers = slices.Insert(v.Peers, at, name)
		}
		return eligibility.Eligible
	}))
	return v
}

// offers calls each for every advertisement and peer by which configuration lets an
// address go out on the node, and returns the reason of those that came nearest.
func (d *decider) offers(a *eligibility.Address, each func(peer, ad int) eligibility.Reason) eligibility.Reason {
	if a.Node != "" {
		return eligibility.NodeAddress
	}
	reason := eligibility.NoAdvertisement
	for i := range d.ads {
		ad := &d.ads[i]
		if !d.selection.Selects(i, a) {
			continue
		}
		if !ad.SelectsNode(d.node.Labels) {
			reason = max(reason, eligibility.NodeNotSelected)
			continue
		}
		reason = max(reason, eligibility.NoPeer)
		for j := range d.peers {
			p := &d.peers[j]
			if len(ad.Peers) > 0 && !slices.Contains(ad.Peers, p.Name) {
				continue
			}
			reason = max(reason, eligibility.FamilyNotOffered)
			if slices.Contains(Families(*p), a.Family()) {
				reason = max(reason, each(j, i))
			}
		}
	}
	return reason
}

// ending reports whether the traffic of an address should rather go to other nodes,
// though this one takes what comes: what it has for it terminates while others are
// ready, or has only just become ready while others serve. What has just changed
// counts as it was before.
func (d *decider) ending(a *eligibility.Address) bool {
	elsewhere, family := false, a.Family()
	for _, s := range a.Services {
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

// state enters that an advertisement gives a prefix to a peer.
func (d *decider) state(peer, ad int, prefix netip.Prefix, a *eligibility.Address, ending bool) {
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
	for _, s := range a.Services {
		st.endpoints[s.Key] = s.Endpoints.Of(a.Family())[d.node.Name].Ready
	}
}

// table returns the routes for a peer, by prefix.
func (d *decider) table(peer int, conflicts map[[2]string]Conflict) []Route {
	routes := make([]Route, 0, len(d.routes[peer]))
	for prefix, st := range d.routes[peer] {
		routes = append(routes, Route{prefix, d.attributes(peer, prefix, st, conflicts)})
	}
	slices.SortFunc(routes, func(a, b Route) int { return ComparePrefix(a.Prefix, b.Prefix) })
	return routes
}

// attributes unites what advertisements say of a prefix. Where two contradict
// each other the younger does not apply.
func (d *decider) attributes(peer int, prefix netip.Prefix, st *statement, conflicts map[[2]string]Conflict) Attributes {
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
