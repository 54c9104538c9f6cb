package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A HostInterface is an interface of the node with the addresses that its kernel has
// there.
type HostInterface struct {
	Name      string
	Addresses []HostAddress
}

// A HostAddress is an address of an interface, and whose it is.
type HostAddress struct {
	netip.Prefix
	Flags lb.AddressFlags
	// Node is set for an address that Kubernetes has as this Node's.
	Node bool
	// Lent is set for an address that a Service or another Node has; Pooled for one
	// that a pool may give to a Service.
	Lent, Pooled bool
}

// HostInterfaces returns the interfaces of a node, by index, as the choice of next hops
// sees them. The order of the snapshot's slices does not matter.
func HostInterfaces(s lb.Snapshot, node string, interfaces []lb.Interface) []HostInterface {
	here := map[netip.Addr]bool{}
	for _, i := range interfaces {
		for _, p := range i.Addresses {
			here[p.Addr()] = true
		}
	}
	own, lent := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, svc := range s.Services {
		for _, a := range svc.Assigned {
			if here[a] {
				lent[a] = true
			}
		}
	}
	for _, n := range s.Nodes {
		set := lent
		if n.Name == node {
			set = own
		}
		for _, a := range n.Addresses {
			if here[a] {
				set[a] = true
			}
		}
	}
	out := make([]HostInterface, 0, len(interfaces))
	for _, i := range interfaces {
		h := HostInterface{Name: i.Name, Addresses: make([]HostAddress, 0, len(i.Addresses))}
		for _, p := range i.Addresses {
			a := HostAddress{Prefix: p, Flags: i.Flags[p], Node: own[p.Addr()]}
			if !a.Node && p.Addr().IsGlobalUnicast() {
				a.Lent = lent[p.Addr()]
				a.Pooled = slices.ContainsFunc(s.Pools, func(pool lb.Pool) bool { return ranges.Contains(pool.Ranges, p.Addr()) })
			}
			h.Addresses = append(h.Addresses, a)
		}
		out = append(out, h)
	}
	return out
}

// A Lack says why routes of a family are not sent in a session; HopFound when they are.
type Lack uint8

// Lacks.
const (
	HopFound Lack = iota
	// FamilyNotAgreed: the router does not carry the family.
	FamilyNotAgreed
	// InterfaceUnknown: no interface has the session's own address.
	InterfaceUnknown
	// AddressAbsent: the interface has no address of the family that others can reach.
	AddressAbsent
	// AddressTentative: it has, but the kernel still asks whether another station does
	// too (RFC 4862).
	AddressTentative
	// AddressLent: it has, but what it has belongs to Services or other Nodes, or is a
	// virtual address that its owner says is not to be used as the node's.
	AddressLent
)

var lacks = [...]string{"None", "FamilyNotAgreed", "InterfaceUnknown", "AddressAbsent", "AddressTentative", "AddressLent"}

// String returns the lack as SpeakerStatus spells it.
func (l Lack) String() string { return lacks[l] }

// A NextHop is the next hop of our routes of a family in a session, or why there is
// none.
type NextHop struct {
	Address netip.Addr
	Lack    Lack
	// Interface is where an address was looked for.
	Interface string
}

// Sentence says why there is no next hop for a family, and what to do.
func (h NextHop) Sentence(f lb.Family) string {
	switch h.Lack {
	case FamilyNotAgreed:
		return fmt.Sprintf("the router does not carry %v in this session", f)
	case InterfaceUnknown:
		return fmt.Sprintf("no interface of the node has the session's own address, so there is no next hop for %v", f)
	case AddressAbsent:
		return fmt.Sprintf("%s has no %v address that the router could use as next hop; give it one", h.Interface, f)
	case AddressTentative:
		return fmt.Sprintf("%s has no %v address that has passed duplicate address detection", h.Interface, f)
	case AddressLent:
		return fmt.Sprintf("%s has no %v address of the node's own: what it has belongs to Services, to other Nodes or to what keeps virtual addresses; give it one", h.Interface, f)
	default:
		return ""
	}
}

// NextHops choose the next hop of each family in a session whose own address is local,
// with a zone if it is link-local. Before is what was chosen last.
//
// It is always this node. Of the session's own family it is the session's own address,
// and so it is for IPv4 over IPv6 where the router understands that (RFC 8950). Of the
// other family it is the address of the session's interface that an operator would name:
// one that lasts and is this node's alone. [better] has the order.
func NextHops(interfaces []HostInterface, local netip.Addr, n Negotiated, before map[lb.Family]NextHop) map[lb.Family]NextHop {
	out := map[lb.Family]NextHop{}
	for _, f := range [...]lb.Family{lb.IPv4, lb.IPv6} {
		switch {
		case !slices.Contains(n.Families, f):
			out[f] = NextHop{Lack: FamilyNotAgreed}
		case !local.IsValid():
			out[f] = NextHop{Lack: InterfaceUnknown}
		case f == lb.FamilyOf(local) || f == lb.IPv4 && n.ExtendedNextHop:
			out[f] = NextHop{Address: local.WithZone("")}
		default:
			out[f] = otherFamily(interfaces, local, f, before[f].Address)
		}
	}
	return out
}

// otherFamily chooses an address of the interface that has local.
func otherFamily(interfaces []HostInterface, local netip.Addr, f lb.Family, before netip.Addr) NextHop {
	i, own := holder(interfaces, local)
	if i == nil {
		return NextHop{Lack: InterfaceUnknown}
	}
	// Where the session's own address is a single one, single addresses are how this
	// network addresses its nodes.
	c := choice{single: own.IsSingleIP(), before: before}
	h := NextHop{Lack: AddressAbsent, Interface: i.Name}
	var best *HostAddress
	for n := range i.Addresses {
		a := &i.Addresses[n]
		if lb.FamilyOf(a.Addr()) != f || !a.Addr().IsGlobalUnicast() {
			continue
		}
		switch {
		case a.Flags&lb.AddressTentative != 0:
			h.Lack = max(h.Lack, AddressTentative)
		case a.Lent, c.virtual(a) && a.Flags&lb.AddressDeprecated != 0:
			h.Lack = AddressLent
		case best == nil || c.better(a, best):
			best = a
		}
	}
	if best != nil {
		h.Address, h.Lack = best.Addr(), HopFound
	}
	return h
}

// holder returns the interface that has an address. Where several have, it is one that
// others can reach.
func holder(interfaces []HostInterface, local netip.Addr) (*HostInterface, HostAddress) {
	var found *HostInterface
	var at HostAddress
	for n := range interfaces {
		i := &interfaces[n]
		if local.Zone() != "" && local.Zone() != i.Name {
			continue
		}
		for _, a := range i.Addresses {
			if a.Addr() == local.WithZone("") && (found == nil || loopback(found) && !loopback(i)) {
				found, at = i, a
			}
		}
	}
	return found, at
}

func loopback(i *HostInterface) bool {
	return slices.ContainsFunc(i.Addresses, func(a HostAddress) bool { return a.Addr().IsLoopback() })
}

// A choice is between addresses of one interface and family.
type choice struct {
	// single is set where nodes have single addresses (/32, /128).
	single bool
	before netip.Addr
}

// virtual reports whether an address looks like one that moves from node to node, as
// keepalived and kube-vip put them there: a single address for ever, where nodes have
// subnets, or one of a pool. What DHCPv6 gives is single too, but not for ever.
func (c choice) virtual(a *HostAddress) bool {
	return a.Pooled || a.IsSingleIP() && a.Flags&lb.AddressDynamic == 0 && !a.Node && !c.single
}

// better reports whether an address is the better next hop. What comes first decides:
// an address of this node's alone; one that the kernel prefers; one that is not replaced
// every day (RFC 8981); the one that Kubernetes knows the Node by; the first of its
// subnet; a global one before a unique local one (RFC 4193). Between those that are
// equal so far the one that was chosen before stays; else it is one that was configured,
// and then the least.
func (c choice) better(a, b *HostAddress) bool {
	flag := func(f lb.AddressFlags) (bool, bool) { return a.Flags&f == 0, b.Flags&f == 0 }
	for _, wish := range []func() (bool, bool){
		func() (bool, bool) { return !c.virtual(a), !c.virtual(b) },
		func() (bool, bool) { return flag(lb.AddressDeprecated) },
		func() (bool, bool) { return flag(lb.AddressTemporary) },
		func() (bool, bool) { return a.Node, b.Node },
		func() (bool, bool) { return flag(lb.AddressSecondary) },
		func() (bool, bool) { return !uniqueLocal(a.Addr()), !uniqueLocal(b.Addr()) },
		func() (bool, bool) { return a.Addr() == c.before, b.Addr() == c.before },
		func() (bool, bool) { return flag(lb.AddressDynamic) },
	} {
		if of, other := wish(); of != other {
			return of
		}
	}
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(b.Bits(), a.Bits())) < 0
}

func uniqueLocal(a netip.Addr) bool { return a.Is6() && a.IsPrivate() }
