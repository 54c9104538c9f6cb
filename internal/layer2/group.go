package layer2

import "net/netip"

// A Group is a solicited-node multicast group, named by the low 24 bits that
// it shares with the addresses it serves (RFC 4291 section 2.7.1). Addresses
// with the same low bits share a group, so a set of groups is what an interface
// has to join, each once.
type Group uint32

// GroupOf returns the group of an IPv6 address.
func GroupOf(a netip.Addr) Group {
	b := a.As16()
	return Group(b[13])<<16 | Group(b[14])<<8 | Group(b[15])
}

// Address returns the group's IPv6 address, ff02::1:ffXX:XXXX.
func (g Group) Address() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: byte(g >> 16), 14: byte(g >> 8), 15: byte(g)})
}

// Groups returns the groups that an interface must be in for a set of claims.
func Groups(claims []Claim, ifindex int) map[Group]struct{} {
	groups := map[Group]struct{}{}
	for _, c := range claims {
		if c.Address.Is6() && c.on(ifindex) {
			groups[GroupOf(c.Address)] = struct{}{}
		}
	}
	return groups
}
