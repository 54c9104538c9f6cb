package announce

import (
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// AdvertisesOn reports whether some advertisement lets a node announce on an
// interface of that name.
func (ix *Index) AdvertisesOn(node, name string) bool {
	n, known := ix.byNode[node]
	return known && slices.ContainsFunc(ix.ads, func(ad advertisement) bool {
		return ad.nodes[n] && advertisesOn(ad.L2Advertisement, name)
	})
}

// A Spare is an interface that could announce and does not: Other is on the same
// segment and does. Routed is set when that is because the kernel's route to the Subnet
// leads there.
type Spare struct {
	Name, Other string
	Subnet      netip.Prefix
	Routed      bool
}

// String says it in words, leaving out Name.
func (s Spare) String() string {
	if s.Routed {
		return s.Other + " answers on its segment: the route to " + s.Subnet.String() + " leads there"
	}
	return s.Other + " answers on its segment: it is in " + s.Subnet.String() + ", too"
}

// Spares returns those of a node's interfaces, in their order, that are left out because
// of another in every advertisement that permits them.
func (ix *Index) Spares(node string, interfaces []lb.Interface) []Spare {
	n, known := ix.byNode[node]
	if !known {
		return nil
	}
	spares, needed := map[int]Spare{}, map[int]bool{}
	for _, ad := range ix.ads {
		if !ad.nodes[n] {
			continue
		}
		var v view
		for k := range interfaces {
			if i := &interfaces[k]; i.Fault() == lb.InterfaceOK && advertisesOn(ad.L2Advertisement, i.Name) {
				v.ports = append(v.ports, port{Interface: i})
			}
		}
		v.doubled = segment(v.ports)
		for _, p := range v.ports {
			if s, is := v.spare(p); is {
				spares[p.Index] = s
			} else {
				needed[p.Index] = true
			}
		}
	}
	var out []Spare
	for _, i := range interfaces {
		if s, is := spares[i.Index]; is && !needed[i.Index] {
			out = append(out, s)
		}
	}
	return out
}

// spare says which other port answers in all subnets of a port instead, and whether any
// does.
func (v *view) spare(p port) (s Spare, is bool) {
	if !v.doubled {
		return s, false
	}
	for _, subnet := range p.Addresses {
		a := subnet.Addr()
		if a.IsLinkLocalUnicast() {
			continue
		}
		at := slices.IndexFunc(v.ports, func(o port) bool { return o.OnLink(a) && p.outdone(o, a) })
		if at < 0 {
			return s, false
		}
		s, is = Spare{p.Name, v.ports[at].Name, subnet.Masked(), slices.Contains(p.Elsewhere, subnet.Masked())}, true
	}
	return s, is
}

// Stranded returns the names of the advertisements, ascending, that select a node
// in vain: none of the interfaces that they permit can announce.
func (ix *Index) Stranded(node string, interfaces []lb.Interface) []string {
	n, known := ix.byNode[node]
	if !known {
		return nil
	}
	var names []string
	for _, ad := range ix.ads {
		if ad.nodes[n] && !slices.ContainsFunc(interfaces, func(i lb.Interface) bool {
			return i.Fault() == lb.InterfaceOK && advertisesOn(ad.L2Advertisement, i.Name)
		}) {
			names = append(names, ad.Name)
		}
	}
	slices.Sort(names)
	return names
}
