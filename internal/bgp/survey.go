package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Survey is what configuration and endpoints let each node of a cluster
// advertise. Whoever has to tell of all nodes asks it, where a node's own part is
// [Decide]'s. Nodes that configuration treats alike are looked at together, so it
// costs little more than one of them. It does not change.
type Survey struct {
	classes   []surveyClass
	addresses []eligibility.Address // ascending
}

// A surveyClass is the nodes that the same advertisements and peers are for, and
// that are equally fit.
type surveyClass struct {
	decider
	rivals []Rival
	nodes  []string
	fit    eligibility.Reason
}

// NewSurvey surveys a snapshot, whose addresses in use these are. The order of its
// slices does not matter.
func NewSurvey(s lb.Snapshot, addresses []eligibility.Address, o Options) *Survey {
	v := &Survey{addresses: addresses}
	common := newDecider(s, o)
	byKey := map[string]int{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		d := common
		rivals := d.at(s.BGPPeers, *n)
		fit := o.Fitness(n)
		var key strings.Builder
		fmt.Fprint(&key, fit)
		for i := range d.ads {
			fmt.Fprint(&key, " ", d.ads[i].SelectsNode(n.Labels))
		}
		for _, p := range d.peers {
			fmt.Fprint(&key, " ", p.Name)
		}
		fmt.Fprint(&key, rivals)
		i, known := byKey[key.String()]
		if !known {
			i = len(v.classes)
			byKey[key.String()] = i
			v.classes = append(v.classes, surveyClass{decider: d, rivals: rivals, fit: fit})
		}
		v.classes[i].nodes = append(v.classes[i].nodes, n.Name)
	}
	return v
}

// address returns an address in use, or nil.
func (v *Survey) address(a netip.Addr) *eligibility.Address {
	i, used := slices.BinarySearchFunc(v.addresses, a, func(x eligibility.Address, a netip.Addr) int { return x.Addr.Compare(a) })
	if !used {
		return nil
	}
	return &v.addresses[i]
}

// offer returns the peers of a class that an address may go out to, wherever its
// endpoints are, and the reason of what came nearest to that.
func (c *surveyClass) offer(a *eligibility.Address) (peers []string, reason eligibility.Reason) {
	reason = c.offers(a, func(peer, _ int) eligibility.Reason {
		peers = append(peers, c.peers[peer].Name)
		return c.fit
	})
	return peers, reason
}

// Reasons returns, for an address, how many nodes have which reason. Nodes that
// may advertise it are Eligible, whether or not their sessions are established. It is
// empty for an address that no Service holds.
func (v *Survey) Reasons(addr netip.Addr) map[eligibility.Reason]int {
	a := v.address(addr)
	if a == nil {
		return nil
	}
	out := map[eligibility.Reason]int{}
	for i := range v.classes {
		c := &v.classes[i]
		_, reason := c.offer(a)
		if !a.Usable || a.Anywhere {
			out[min(reason, a.Idle(""))] += len(c.nodes)
			continue
		}
		for _, n := range c.nodes {
			out[min(reason, a.Idle(n))]++
		}
	}
	return out
}

// Advertisers returns the nodes, ascending, that advertise an address, given the
// sessions that each node has established.
func (v *Survey) Advertisers(addr netip.Addr, sessions map[string][]lb.SessionID) []string {
	a := v.address(addr)
	if a == nil {
		return nil
	}
	var out []string
	for i := range v.classes {
		c := &v.classes[i]
		peers, reason := c.offer(a)
		if reason != eligibility.Eligible {
			continue
		}
		var by []lb.SessionID
		for _, p := range peers {
			by = append(by, SessionID(p, a.Family()))
		}
		for _, n := range c.nodes {
			if a.Idle(n) == eligibility.Eligible && slices.ContainsFunc(sessions[n], func(x lb.SessionID) bool { return slices.Contains(by, x) }) {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
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
		d := v.classes[i].decider
		if !Contestable(d.ads) {
			continue
		}
		d.clear()
		for i := range v.addresses {
			a := &v.addresses[i]
			d.offers(a, func(peer, ad int) eligibility.Reason {
				d.state(peer, ad, prefixOf(&d.ads[ad], a.Addr), a, false)
				return eligibility.Eligible
			})
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
