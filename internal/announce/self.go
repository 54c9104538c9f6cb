package announce

import (
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
