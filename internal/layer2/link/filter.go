package link

import (
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// merge returns the same addresses as sorted, disjoint ranges that are not
// adjacent.
func merge(ranges []lb.AddressRange) []lb.AddressRange {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b lb.AddressRange) int { return a.First.Compare(b.First) })
	out := sorted[:0]
	for _, r := range sorted {
		if n := len(out); n > 0 && lb.FamilyOf(out[n-1].Last) == lb.FamilyOf(r.First) &&
			(r.First.Compare(out[n-1].Last) <= 0 || r.First == out[n-1].Last.Next()) {
			if r.Last.Compare(out[n-1].Last) > 0 {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}
