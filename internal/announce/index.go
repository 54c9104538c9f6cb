package announce

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/placement"
)

// An Index is a Snapshot arranged by address: who may announce each address by
// configuration. It does not change.
type Index struct {
	nodes   []lb.Node // by name
	ads     []advertisement
	groups  []group // by address
	byAddr  map[netip.Addr]int
	byNode  map[string]int
	options eligibility.Options
	// configuration is the snapshot's.
	configuration string
	// survey is of BGP; nil when nothing is advertised by it.
	survey *bgp.Survey
}

// A group is one address in use, with what layer 2 adds.
type group struct {
	*eligibility.Address
	keys   []lb.ServiceKey // of its Services
	placed string          // the node where the controller placed it
	place  int             // the index of that node, or -1
	class  *class
	// endpoints are, unless traffic may arrive at any node, the nodes that count
	// because they have endpoints, ascending: settled from those where some are ready
	// and those where all terminate.
	endpoints          []int
	ready, terminating []int
}

// A class is what addresses have in common that are selected by the same
// advertisements.
type class struct {
	ads []int // indexes of the advertisements, ascending
	// reasons has Eligible or the reason of every node, endpoints left aside.
	reasons  []eligibility.Reason
	eligible []int // the indexes of those nodes
	// weights has every node's preference: the sum of those that match it in an
	// advertisement, the greatest of several advertisements.
	weights []int
	// failback and conflict are those of the oldest.
	failback lb.Failback
	conflict lb.ConflictPolicy
}

// An advertisement is one L2Advertisement with its nodes resolved.
type advertisement struct {
	*lb.L2Advertisement
	nodes   []bool // selected, by node index
	weights []int  // by node index
}

// NewIndex arranges a snapshot by address. The order of the snapshot's slices
// does not matter. The Index refers to the snapshot's values.
func NewIndex(s lb.Snapshot, o eligibility.Options) *Index {
	ix := &Index{
		nodes:   sorted(s.Nodes, func(a, b lb.Node) int { return cmp.Compare(a.Name, b.Name) }),
		byAddr:  make(map[netip.Addr]int, len(s.Services)),
		byNode:  make(map[string]int, len(s.Nodes)),
		options: o, configuration: s.Configuration,
	}
	for i, n := range ix.nodes {
		ix.byNode[n.Name] = i
	}
	// Oldest first, so that where advertisements contradict each other, the
	// older is heard first.
	ads := sorted(s.L2Advertisements, func(a, b lb.L2Advertisement) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	scopes := make([]lb.Scope, len(ads))
	for i := range ads {
		scopes[i] = ads[i].Scope
		ix.ads = append(ix.ads, advertisement{&ads[i], ix.selected(scopes[i]), ix.weights(ads[i].PreferredNodes)})
	}
	addresses := eligibility.Addresses(s)
	ix.group(addresses)
	ix.classify(eligibility.NewSelection(scopes, s.Pools))
	if len(s.BGPAdvertisements) > 0 {
		ix.survey = bgp.NewSurvey(s, addresses, bgp.Options{Options: o})
	}
	return ix
}

// Configuration tells which configuration the Index was made of, for whoever
// compares: see [lb.Snapshot].
func (ix *Index) Configuration() string { return ix.configuration }

// Nodes returns the names of the nodes, ascending.
func (ix *Index) Nodes() []string {
	names := make([]string, len(ix.nodes))
	for i, n := range ix.nodes {
		names[i] = n.Name
	}
	return names
}

// Size returns how many addresses are to be announced.
func (ix *Index) Size() int { return len(ix.groups) }

// Addresses returns the addresses to be announced, ascending.
func (ix *Index) Addresses() []netip.Addr {
	addrs := make([]netip.Addr, len(ix.groups))
	for i, g := range ix.groups {
		addrs[i] = g.Addr
	}
	return addrs
}

// Uses reports whether an address is to be announced.
func (ix *Index) Uses(a netip.Addr) bool {
	_, used := ix.byAddr[a]
	return used
}

// Placed returns the node where an address is recorded to be, or empty.
func (ix *Index) Placed(a netip.Addr) string {
	if i, ok := ix.byAddr[a]; ok {
		return ix.groups[i].placed
	}
	return ""
}

// Announced reports whether a Service says that an address was announced when it
// was read.
func (ix *Index) Announced(a netip.Addr) bool {
	i, ok := ix.byAddr[a]
	return ok && slices.ContainsFunc(ix.groups[i].Services, func(s *lb.Service) bool { return s.Announced })
}

// Services returns the Services that share an address, by key.
func (ix *Index) Services(a netip.Addr) []lb.ServiceKey {
	i, ok := ix.byAddr[a]
	if !ok {
		return nil
	}
	return ix.groups[i].keys
}

// Advertises reports whether some advertisement lets an interface of that name
// announce, on whatever node.
func (ix *Index) Advertises(name string) bool {
	return slices.ContainsFunc(ix.ads, func(ad advertisement) bool { return advertisesOn(ad.L2Advertisement, name) })
}

// Sites returns the addresses, ascending, as far as configuration bears on where
// they are to be placed.
func (ix *Index) Sites() []placement.Address {
	return ix.sites(func(*group) bool { return true })
}

// SitesOf returns those that an advertisement selects.
func (ix *Index) SitesOf(advertisement string) []placement.Address {
	return ix.sites(func(g *group) bool {
		return slices.ContainsFunc(g.class.ads, func(ad int) bool { return ix.ads[ad].Name == advertisement })
	})
}

func (ix *Index) sites(which func(*group) bool) []placement.Address {
	var sites []placement.Address
	nodes := map[*class][]placement.Node{}
	for i := range ix.groups {
		g := &ix.groups[i]
		if !which(g) {
			continue
		}
		eligible, known := nodes[g.class]
		if !known {
			for _, n := range g.class.eligible {
				eligible = append(eligible, placement.Node{Name: ix.nodes[n].Name, Weight: g.class.weights[n], NotReady: ix.nodes[n].NotReady})
			}
			nodes[g.class] = eligible
		}
		sites = append(sites, placement.Address{
			Address: g.Addr, Placed: g.placed, Failback: g.class.failback,
			Advertised: len(g.class.ads) > 0, Nodes: eligible, Local: g.serving(),
		})
	}
	return sites
}

// serving returns, for an address that only nodes with endpoints may announce,
// those that do, as indexes of the eligible nodes of its class.
func (g *group) serving() []int {
	var serving []int
	if !g.Anywhere {
		for _, n := range g.endpoints {
			if i, eligible := slices.BinarySearch(g.class.eligible, n); eligible {
				serving = append(serving, i)
			}
		}
	}
	return serving
}

// A NodeReason is what stands between one node and one address.
type NodeReason struct {
	Node   string
	Reason eligibility.Reason
}

// Candidates returns, for every node by name, whether configuration lets it
// announce the address ([Eligible]) or what forbids it. Nil for an address that
// no Service holds.
func (ix *Index) Candidates(a netip.Addr) []NodeReason {
	i, ok := ix.byAddr[a]
	if !ok {
		return nil
	}
	out := make([]NodeReason, len(ix.nodes))
	for n, node := range ix.nodes {
		out[n] = NodeReason{node.Name, ix.groups[i].reason(n)}
	}
	return out
}

// Refusal says why no node may announce an address, by layer 2 or by BGP. Its
// Reason is Eligible when one may, or when no Service holds the address: then
// there is nothing to refuse.
func (ix *Index) Refusal(a netip.Addr) Refusal {
	i, ok := ix.byAddr[a]
	if !ok || ix.groups[i].hasCandidate() {
		return Refusal{Reason: eligibility.Eligible}
	}
	routed, asked := ix.Routing(a)
	if asked && routed.Reason == eligibility.Eligible {
		return routed
	}
	r := refuse(ix.Candidates(a))
	r.Node = ix.groups[i].Node
	switch {
	case !asked:
		return r
	case r.Reason == eligibility.NoAdvertisement:
		return routed // BGP alone was asked for
	default:
		r.Routing, r.Reason = &routed, max(r.Reason, routed.Reason)
		return r
	}
}

// Routing says whether any node may advertise an address by BGP, or why none
// may, and whether it is to be advertised by BGP at all.
func (ix *Index) Routing(a netip.Addr) (r Refusal, asked bool) {
	if ix.survey == nil {
		return Refusal{}, false
	}
	for reason, n := range ix.survey.Reasons(a) {
		if reason == eligibility.Eligible {
			return Refusal{Reason: reason}, true
		}
		r.Counts[reason] += n
		r.Reason = max(r.Reason, reason)
	}
	return r, r.Reason > eligibility.NoAdvertisement
}

// Advertisers returns the nodes, ascending, that advertise an address by BGP,
// given the [Sessions] of the members.
func (ix *Index) Advertisers(a netip.Addr, sessions map[string][]lb.SessionID) []string {
	if ix.survey == nil {
		return nil
	}
	return ix.survey.Advertisers(a, sessions)
}

// Sessions returns the established BGP sessions of each node that is here to stay.
func Sessions(members []election.Member) map[string][]lb.SessionID {
	out := make(map[string][]lb.SessionID, len(members))
	for _, m := range members {
		if m.State != election.Leaving {
			out[m.Node] = m.Sessions
		}
	}
	return out
}

// A Refusal sums up why an address has no node to announce it.
type Refusal struct {
	// Reason is that of the nodes that came nearest.
	Reason eligibility.Reason
	// Counts says how many nodes have which reason.
	Counts [eligibility.Reasons]int
	// Routing is the same for BGP, when both protocols were asked for; the rest is
	// then about layer 2.
	Routing *Refusal
	// Node has the address for itself (NodeAddress).
	Node string
}

// refuse sums up.
func refuse(nodes []NodeReason) Refusal {
	r := Refusal{}
	for _, n := range nodes {
		r.Counts[n.Reason]++
		r.Reason = max(r.Reason, n.Reason)
	}
	return r
}

// Sentence says it in words on which a person can act.
func (r Refusal) Sentence() string {
	switch r.Reason {
	case eligibility.Eligible:
		return "a node may announce the address"
	case eligibility.NoNode:
		return "the cluster has no node"
	case eligibility.NodeAddress:
		return "the address is node " + r.Node + "'s own"
	case eligibility.NoAdvertisement:
		return "no L2Advertisement or BGPAdvertisement selects the pool and every Service that uses the address"
	case eligibility.NoEndpoint:
		return "no endpoint of the address's family is ready"
	}
	if r.Routing != nil {
		return "no node can announce the address: by layer 2, " + r.counted() + "; by BGP, " + r.Routing.counted()
	}
	return "no node can announce the address: " + r.counted()
}

// counted says how many nodes have which reason.
func (r Refusal) counted() string {
	var parts []string
	for reason, n := range r.Counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, eligibility.Reason(reason).Among()))
		}
	}
	slices.Reverse(parts) // the nearest first
	return strings.Join(parts, ", ")
}

// reason returns what configuration says of node n.
func (g *group) reason(n int) eligibility.Reason {
	switch {
	case g.Node != "":
		return eligibility.NodeAddress
	case len(g.class.ads) == 0:
		return eligibility.NoAdvertisement
	case !g.Usable:
		return eligibility.NoEndpoint
	}
	if _, found := slices.BinarySearch(g.endpoints, n); !g.Anywhere && !found {
		return eligibility.NoLocalEndpoint
	}
	return g.class.reasons[n]
}

// candidates yields the indexes of the eligible nodes, ascending.
func (g *group) candidates(yield func(int) bool) {
	nodes := g.endpoints
	if g.Anywhere {
		nodes = g.class.eligible
	}
	for _, n := range nodes {
		if g.class.reasons[n] == eligibility.Eligible && !yield(n) {
			return
		}
	}
}

func (g *group) hasCandidate() bool {
	for range g.candidates {
		return true
	}
	return false
}

// group adds to each address what the index keeps of it.
func (ix *Index) group(addresses []eligibility.Address) {
	ix.groups = make([]group, len(addresses))
	for i := range addresses {
		g := &ix.groups[i]
		g.Address, g.place = &addresses[i], -1
		ix.byAddr[g.Addr] = i
		g.keys = make([]lb.ServiceKey, len(g.Services))
		for i, s := range g.Services {
			g.keys[i] = s.Key
			g.placed = cmp.Or(g.placed, s.PlaceOf(g.Addr))
		}
		if n, known := ix.byNode[g.placed]; known {
			g.place = n
		}
		if g.Anywhere {
			continue
		}
		g.Serving(func(node string, serving lb.Serving) {
			switch n, known := ix.byNode[node]; {
			case !known:
			case serving == lb.Steady:
				g.ready = append(g.ready, n)
			default:
				g.terminating = append(g.terminating, n)
			}
		})
	}
}

// settle chooses the endpoints that count. Those that terminate do only when no
// node that may announce has a ready one: an address leaves their node as soon
// as another can serve it, not when the last of them is gone.
func (g *group) settle() {
	g.endpoints = g.ready
	if !slices.ContainsFunc(g.ready, func(n int) bool { return g.class.reasons[n] == eligibility.Eligible }) {
		g.endpoints = append(g.endpoints, g.terminating...)
	}
	slices.Sort(g.endpoints)
	g.endpoints = slices.Compact(g.endpoints)
	g.ready, g.terminating = nil, nil
}

// classify gives every group its class.
func (ix *Index) classify(selection *eligibility.Selection) {
	classes := map[string]*class{}
	var key []byte
	for i := range ix.groups {
		g := &ix.groups[i]
		key = key[:0]
		var selecting []int
		for ad := range ix.ads {
			if selection.Selects(ad, g.Address) {
				selecting = append(selecting, ad)
				key = binary.AppendUvarint(key, uint64(ad))
			}
		}
		if classes[string(key)] == nil {
			classes[string(key)] = ix.class(selecting)
		}
		g.class = classes[string(key)]
		g.settle()
	}
}

// class computes the reasons of all nodes for addresses that these
// advertisements select.
func (ix *Index) class(ads []int) *class {
	c := &class{ads: ads, reasons: make([]eligibility.Reason, len(ix.nodes)), weights: make([]int, len(ix.nodes))}
	if len(ads) > 0 {
		c.failback, c.conflict = ix.ads[ads[0]].Failback, ix.ads[ads[0]].ConflictPolicy
	}
	for n := range ix.nodes {
		c.reasons[n] = eligibility.NodeNotSelected
		for _, ad := range ads {
			if ix.ads[ad].nodes[n] {
				c.weights[n] = max(c.weights[n], ix.ads[ad].weights[n])
				c.reasons[n] = ix.options.Fitness(&ix.nodes[n])
			}
		}
		if c.reasons[n] == eligibility.Eligible {
			c.eligible = append(c.eligible, n)
		}
	}
	return c
}

// selected returns which nodes, by index, a scope selects.
func (ix *Index) selected(scope lb.Scope) []bool {
	out := make([]bool, len(ix.nodes))
	for i, n := range ix.nodes {
		out[i] = scope.SelectsNode(n.Labels)
	}
	return out
}

// weights sums the preferences that match each node.
func (ix *Index) weights(preferences []lb.NodePreference) []int {
	out := make([]int, len(ix.nodes))
	for _, p := range preferences {
		for i, n := range ix.nodes {
			if p.Preference.Matches(n.Labels) {
				out[i] += p.Weight
			}
		}
	}
	return out
}

func sorted[T any](in []T, compare func(a, b T) int) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, compare)
	return out
}
