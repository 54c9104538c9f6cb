package placement

import (
	"cmp"
	"net/netip"
	"slices"
)

// Rebalance returns moves that make the loads even, the most urgent first, each
// address at most once. First go those that are on a node of lesser weight than
// they could be, then, one by one, an address of the fullest node to the
// emptiest that is as good, as long as their loads differ by more than one.
//
// Load is how many other addresses each node has. What needs a place anyhow is
// left to Plan.
func Rebalance(load map[string]int, addresses []Address) []Decision {
	p := newPlan(load)
	addresses = slices.Clone(addresses)
	slices.SortFunc(addresses, func(a, b Address) int { return a.Address.Compare(b.Address) })

	var groups []*homes
	byGroup := map[*group]*homes{}
	type light struct {
		address netip.Addr
		from    string
		to      *group
	}
	var lights []light
	for i := range addresses {
		a := &addresses[i]
		node, reason := p.stays(a)
		if reason != Kept {
			continue
		}
		p.load[node]++
		g := p.choice(a)
		if weight, _ := weightOf(a); weight < g.weight {
			lights = append(lights, light{a.Address, node, g})
			continue
		}
		if !slices.Contains(g.nodes, node) {
			continue // it is better off than where its endpoints are
		}
		h := byGroup[g]
		if h == nil {
			h = &homes{group: g, at: map[string][]netip.Addr{}}
			byGroup[g] = h
			groups = append(groups, h)
		}
		h.at[node] = append(h.at[node], a.Address)
	}
	slices.SortFunc(groups, func(a, b *homes) int { return cmp.Compare(a.key, b.key) })

	var moves []Decision
	move := func(a netip.Addr, from, to string) {
		p.load[from]--
		p.load[to]++
		moves = append(moves, Decision{a, to, Rebalanced})
	}
	for _, l := range lights {
		emptiest := slices.MinFunc(l.to.nodes, func(a, b string) int { return cmp.Compare(p.load[a], p.load[b]) })
		move(l.address, l.from, emptiest)
	}
	for {
		var (
			best     *homes
			from, to string
		)
		for _, h := range groups {
			full, empty, ok := h.extremes(p.load)
			if ok && p.load[full]-p.load[empty] > 1 && (best == nil || p.load[full]-p.load[empty] > p.load[from]-p.load[to]) {
				best, from, to = h, full, empty
			}
		}
		if best == nil {
			return moves
		}
		move(best.at[from][0], from, to)
		best.at[from] = best.at[from][1:]
	}
}

// homes are the addresses that have the choice of a group, by where they are.
type homes struct {
	*group
	at map[string][]netip.Addr
}

// extremes returns the fullest node that has an address to give away and the
// emptiest node; of equals, the first by name.
func (h *homes) extremes(load map[string]int) (full, empty string, ok bool) {
	empty = h.nodes[0]
	for _, n := range h.nodes {
		if len(h.at[n]) > 0 && (full == "" || load[n] > load[full]) {
			full = n
		}
		if load[n] < load[empty] {
			empty = n
		}
	}
	return full, empty, full != ""
}

// A Progress is how far the rebalancing of an advertisement has come. It is
// kept in the advertisement's status, so that the next leader goes on with
// it.
type Progress struct {
	// Token is the value of the annotation that is being honored, or was.
	Token string
	// Left is how many moves it may still take.
	Left int
}

// Step returns how many of the moves that Rebalance found are to be made now,
// and the progress to record with them. A token that was not seen before grants
// as many moves as there are at that moment. That bounds what a request can do
// even when moves are undone, as they are where the chosen node is dead and the
// owner records itself again.
func (p Progress) Step(token string, moves, most int) (Progress, int) {
	if token == "" {
		return p, 0
	}
	if token != p.Token {
		p = Progress{Token: token, Left: moves}
	}
	n := min(p.Left, moves, most)
	p.Left -= n
	if moves == n {
		p.Left = 0 // all is even
	}
	return p, n
}
