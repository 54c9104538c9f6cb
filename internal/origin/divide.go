package origin

import (
	"container/heap"
	"maps"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// An Overlap is what a pool names and another one hands out.
type Overlap struct {
	// With is the pool that hands it out.
	With string
	// Ranges is a set of addresses; not all of them when there are many.
	Ranges []lb.AddressRange
}

// maxOverlaps is how many ranges the overlaps of one pool name in all: more than a
// person reads, and few enough that thousands of pools that all overlap are told so in
// time that is nearly linear.
const maxOverlaps = 64

// Divide leaves each address with one of the pools that name it: one that is not being
// deleted before one that is, then the older, then the one whose name comes first.
// Given are pools whose Ranges are all that they name; it moves to Lost what another
// pool gets. For each pool it returns with which others it overlaps in vain, in the
// order of their right.
func Divide(pools []lb.Pool) [][]Overlap {
	order := ranked(pools)
	won := sweep(order)
	shares := make([][]lb.AddressRange, len(order))
	for _, p := range won {
		share := shares[p.rank]
		if n := len(share) - 1; n >= 0 && share[n].Last.Next() == p.First {
			share[n].Last = p.Last
			continue
		}
		shares[p.rank] = append(share, p.AddressRange)
	}
	overlaps := make([][]Overlap, len(pools))
	for rank, p := range order {
		p.Lost = ranges.Subtract(p.Ranges, shares[rank])
		p.Ranges = shares[rank]
	}
	for i := range pools {
		overlaps[i] = lostTo(pools[i].Lost, won, order)
	}
	return overlaps
}

// A piece is a range of the pool of that rank.
type piece struct {
	lb.AddressRange
	rank int
}

// sweep goes through the ranges of all pools from the lowest address to the highest
// and returns who has the right to which part: sorted, disjoint.
func sweep(order []*lb.Pool) (won []piece) {
	var named []piece
	for rank, p := range order {
		for _, r := range p.Ranges {
			named = append(named, piece{r, rank})
		}
	}
	slices.SortFunc(named, func(a, b piece) int { return a.First.Compare(b.First) })
	var open byRank // the pieces that have begun
	var at netip.Addr
	for len(named) > 0 || len(open) > 0 {
		if len(open) == 0 {
			at = named[0].First
		}
		for len(named) > 0 && named[0].First == at {
			heap.Push(&open, named[0])
			named = named[1:]
		}
		for len(open) > 0 && open[0].Last.Less(at) {
			heap.Pop(&open)
		}
		if len(open) == 0 {
			continue
		}
		part := piece{lb.AddressRange{First: at, Last: open[0].Last}, open[0].rank}
		if len(named) > 0 && named[0].First.Compare(part.Last) <= 0 {
			part.Last = named[0].First.Prev()
		}
		won = append(won, part)
		if at = part.Last.Next(); !at.IsValid() {
			open = open[:0] // the family ends here, and with it all that is open
		}
	}
	return won
}

// lostTo says to whom a set of addresses has gone.
func lostTo(lost []lb.AddressRange, won []piece, order []*lb.Pool) (overlaps []Overlap) {
	taken := map[int][]lb.AddressRange{}
	n := 0
	for _, r := range lost {
		i, _ := slices.BinarySearchFunc(won, r.First, func(p piece, a netip.Addr) int { return p.Last.Compare(a) })
		for ; i < len(won) && won[i].First.Compare(r.Last) <= 0 && n < maxOverlaps; i++ {
			common := ranges.Intersect([]lb.AddressRange{r}, []lb.AddressRange{won[i].AddressRange})
			taken[won[i].rank] = append(taken[won[i].rank], common...)
			n++
		}
	}
	for _, rank := range slices.Sorted(maps.Keys(taken)) {
		overlaps = append(overlaps, Overlap{order[rank].Name, ranges.Union(taken[rank])})
	}
	return overlaps
}

// byRank is a heap of pieces.
type byRank []piece

func (h byRank) Len() int           { return len(h) }
func (h byRank) Less(i, j int) bool { return h[i].rank < h[j].rank }
func (h byRank) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byRank) Push(x any)        { *h = append(*h, x.(piece)) }
func (h *byRank) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	*h = (*h)[:last]
	return p
}
