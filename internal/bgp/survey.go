package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A Survey is what configuration and endpoints let each node of a cluster
// advertise. Whoever has to tell of all nodes asks it, where a node's own part is
// [Decide]'s. Nodes that configuration treats alike are looked at together, so it
// costs little more than one of them. It does not change.
type Survey struct {
	classes []surveyClass
	nodes   int
	groups  map[netip.Addr]group
}

// A surveyClass is the nodes that the same advertisements and peers are for, and
// that are equally fit.
type surveyClass struct {
	decision
	rivals []Rival
	nodes  []string
	unfit  Reason // or Advertised
}

// NewSurvey surveys a snapshot, of whose pools and Nodes origins are. The order of its
// slices does not matter.
func NewSurvey(s lb.Snapshot, origins *origin.Index, o Options) *Survey {
	v := &Survey{nodes: len(s.Nodes), groups: map[netip.Addr]group{}}
	for _, g := range groups(s.Services, origins) {
		v.groups[g.address] = g
	}
	ads := oldestFirst(s.BGPAdvertisements)
	byKey := map[string]int{}
	for _, n := range s.Nodes {
		d := decision{options: o, node: n, ads: ads, origins: origins}
		var rivals []Rival
		d.peers, rivals = peersOf(s.BGPPeers, n)
		unfit := d.unfit()
		if unfit == Advertised && n.Drain {
			unfit = Drained
		}
		var key strings.Builder
		fmt.Fprint(&key, unfit)
		for i := range ads {
			fmt.Fprint(&key, " ", selects(ads[i].NodeSelectors, n.Labels))
		}
		for _, p := range d.peers {
			fmt.Fprint(&key, " ", p.Name)
		}
		fmt.Fprint(&key, rivals)
		i, known := byKey[key.String()]
		if !known {
			i = len(v.classes)
			byKey[key.String()] = i
			v.classes = append(v.classes, surveyClass{decision: d, rivals: rivals, unfit: unfit})
		}
		v.classes[i].nodes = append(v.classes[i].nodes, n.Name)
	}
	return v
}

// offer returns the peers of a class that an address may go out to, or how near
// to that it came.
func (c *surveyClass) offer(g group) (peers []string, reason Reason) {
	reason = c.offers(g, func(peer, _ int) { peers = append(peers, c.peers[peer].Name) })
	if len(peers) == 0 {
		return nil, reason
	}
	return peers, c.unfit
}

// Reasons returns, for an address, how many nodes have which reason. Nodes that
// may advertise it have Advertised, whether or not their sessions are
// established. It is empty for an address that no Service holds.
func (v *Survey) Reasons(a netip.Addr) map[Reason]int {
	g, used := v.groups[a]
	if !used {
		return nil
	}
	out := map[Reason]int{}
	for i := range v.classes {
		c := &v.classes[i]
		_, reason := c.offer(g)
		switch {
		case reason != Advertised:
			out[reason] += len(c.nodes)
		case g.anywhere():
			out[Advertised] += len(c.nodes)
		default:
			for _, n := range c.nodes {
				out[g.idle(n)]++
			}
		}
	}
	return out
}

// Advertisers returns the nodes, ascending, that advertise an address, where
// carriers are those of the sessions that each node has established.
func (v *Survey) Advertisers(a netip.Addr, carriers map[string][]uint32) []string {
	g, used := v.groups[a]
	if !used {
		return nil
	}
	var out []string
	for i := range v.classes {
		c := &v.classes[i]
		peers, reason := c.offer(g)
		if reason != Advertised {
			continue
		}
		var by []uint32
		for _, p := range peers {
			by = append(by, Carrier(p, lb.FamilyOf(a)))
		}
		anywhere := g.anywhere()
		for _, n := range c.nodes {
			if !slices.ContainsFunc(carriers[n], func(x uint32) bool { return slices.Contains(by, x) }) {
				continue
			}
			if anywhere || g.idle(n) == Advertised {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// anywhere reports whether an address's traffic has an endpoint to go to from any
// node.
func (g group) anywhere() bool {
	return slices.ContainsFunc(g.services, func(s *lb.Service) bool {
		return s.TrafficPolicy == lb.TrafficCluster && s.Endpoints.Of(lb.FamilyOf(g.address)).Serving(lb.TrafficCluster, "") > lb.Idle
	})
}

// Contradictions returns the conflicts between advertisements, as [Decide] finds
// them on each node, and the peers that older ones keep from being used on some
// node: each pair once. They follow from what the objects say, whatever has
// endpoints at the moment.
func (v *Survey) Contradictions() (conflicts []Conflict, rivals []Rival) {
	found := map[[2]string]Conflict{}
	for i := range v.classes {
		for _, r := range v.classes[i].rivals {
			if !slices.Contains(rivals, r) {
				rivals = append(rivals, r)
			}
		}
		d := v.classes[i].decision
		if !Contestable(d.ads) {
			continue
		}
		d.routes = make([]map[netip.Prefix]*statement, len(d.peers))
		for p := range d.routes {
			d.routes[p] = map[netip.Prefix]*statement{}
		}
		for _, g := range v.groups {
			d.offers(g, func(peer, ad int) { d.state(peer, ad, prefixOf(&d.ads[ad], g.address), g, false) })
		}
		for p := range d.peers {
			d.table(p, found)
		}
	}
	for _, c := range found {
		conflicts = append(conflicts, c)
	}
	slices.SortFunc(conflicts, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Advertisement, b.Advertisement), cmp.Compare(a.Older, b.Older))
	})
	slices.SortFunc(rivals, func(a, b Rival) int { return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Older, b.Older)) })
	return conflicts, rivals
}

// Contestable reports whether any two advertisements disagree on an attribute, or all
// have too many communities together, whether or not they ever meet.
func Contestable(ads []lb.BGPAdvertisement) bool {
	var all []lb.Community
	for i := range ads {
		all = unite(all, ads[i].Communities)
	}
	if len(all) > MaxCommunities {
		return true
	}
	differ := func(a, b *uint32) bool { return a != nil && b != nil && *a != *b }
	for i := range ads {
		for j := range i {
			a, b := &ads[i], &ads[j]
			if differ(a.LocalPref, b.LocalPref) || differ(a.MED, b.MED) || a.ASPathPrepend != b.ASPathPrepend && min(a.ASPathPrepend, b.ASPathPrepend) > 0 {
				return true
			}
		}
	}
	return false
}
