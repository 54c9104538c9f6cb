package placement

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// Objects says why an address cannot be placed on a node as was asked, in words
// that follow the name of the address; empty when it can, and then stays there.
func (a *Address) Objects(node string) string {
	i, may := slices.BinarySearchFunc(a.Nodes, node, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	switch {
	case !a.Advertised:
		return "is selected by no L2Advertisement"
	case !may:
		return fmt.Sprintf("may not be announced by %s: there is no such node, it is drained or excluded, or no L2Advertisement selects it", node)
	case a.Failback == lb.FailbackImmediate && slices.ContainsFunc(a.Nodes, func(n Node) bool { return n.Weight > a.Nodes[i].Weight }):
		return fmt.Sprintf("would not stay on %s: preferredNodes give other nodes a greater weight, and failback is Immediate", node)
	}
	return ""
}

// Find returns an address among sites, which are ascending; nil if it is not there.
func Find(sites []Address, a netip.Addr) *Address {
	i, there := slices.BinarySearchFunc(sites, a, func(site Address, a netip.Addr) int { return site.Address.Compare(a) })
	if !there {
		return nil
	}
	return &sites[i]
}

// Refuses says which of some addresses cannot be placed on a node as was asked, and
// why; empty when all can.
func Refuses(sites []Address, addresses []netip.Addr, node string) string {
	for _, a := range addresses {
		if site := Find(sites, a); site != nil {
			if why := site.Objects(node); why != "" {
				return a.String() + " " + why
			}
		}
	}
	return ""
}
