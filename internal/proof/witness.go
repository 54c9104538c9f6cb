package proof

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// Segment returns which of a node's interfaces leads to the segment where a client
// asks for an address: one with a subnet of the address, or else the first.
func Segment(interfaces []lb.Interface, a netip.Addr) (lb.Interface, bool) {
	for _, i := range interfaces {
		if i.OnLink(a) {
			return i, true
		}
	}
	if len(interfaces) == 0 {
		return lb.Interface{}, false
	}
	return interfaces[0], true
}

// Share reports whether two interfaces of different nodes are on one segment: they
// have a subnet in common. Every interface has the link-local one.
func Share(a, b lb.Interface) bool {
	for _, p := range b.Addresses {
		if !p.Addr().IsLinkLocalUnicast() && a.OnLink(p.Addr()) {
			return true
		}
	}
	return false
}

// Witness returns the node that asks for what an owner answers for on one of its
// interfaces, empty if there is none: the next live member by name, and after the last
// the first, that has an interface on the same segment. Members are ascending. Each
// node is the witness of few, and all who know the same members name the same one.
func Witness(members []election.Member, owner string, on lb.Interface) string {
	at, _ := slices.BinarySearchFunc(members, owner, func(m election.Member, node string) int { return cmp.Compare(m.Node, node) })
	for k := range members {
		m := &members[(at+k)%len(members)]
		if m.Node == owner || m.State != election.Alive {
			continue
		}
		if slices.ContainsFunc(m.Interfaces, func(i lb.Interface) bool { return Share(i, on) }) {
			return m.Node
		}
	}
	return ""
}
