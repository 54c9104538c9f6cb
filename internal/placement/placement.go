package placement

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Node may be given addresses.
type Node struct {
	Name string
	// Weight is how much it is preferred for the address.
	Weight int
	// NotReady nodes keep what they have, but get nothing while others can take
	// it.
	NotReady bool
}

// An Address is one address and what its place depends on.
type Address struct {
	Address netip.Addr
	// Placed is the node where it is recorded to be; empty for none.
	Placed string
	// InService is set when a node answers for the address already. Without
	// Placed, it is not known which: it is then placed where the election has it,
	// however full that node is.
	InService bool
	Failback  lb.Failback
	// Advertised is set when layer 2 announces the address at all.
	Advertised bool
	// Nodes are those that configuration lets announce it, wherever its
	// endpoints are; by name. Addresses may share the slice.
	Nodes []Node
	// Local restricts a choice to those indexes of Nodes, ascending, where the
	// address has endpoints. Nil, or with none in it, restricts nothing.
	Local []int
}

// A Reason says why an address is placed where it is.
type Reason uint8

// Reasons.
const (
	// Unadvertised: layer 2 does not announce it; it has no place.
	Unadvertised Reason = iota
	// NoNode: no node may announce it. It keeps the place it had, if any.
	NoNode
	// Kept: it stays where it is recorded.
	Kept
	// New: it had no place.
	New
	// Adopted: it had none recorded, and is left where the election has it.
	Adopted
	// Displaced: its node may not announce it any more.
	Displaced
	// Preferred: a node of greater weight is there, and failback is Immediate.
	Preferred
	// Rebalanced: a user asked for even numbers.
	Rebalanced
)

var reasons = [...]string{"Unadvertised", "NoNode", "Kept", "New", "Adopted", "Displaced", "Preferred", "Rebalanced"}

// String returns the reason in a word.
func (r Reason) String() string { return reasons[r] }

// A Decision is the place of one address.
type Decision struct {
	Address netip.Addr
	// Node is its place; empty for none.
	Node   string
	Reason Reason
}

// Plan places addresses, in ascending order, none of them named twice.
//
// Load is how many other addresses each node has. The result depends on the
// order of nothing, and planning again with what was decided changes nothing.
func Plan(load map[string]int, addresses []Address) []Decision {
	p := newPlan(load)
	addresses = slices.Clone(addresses)
	slices.SortFunc(addresses, func(a, b Address) int { return a.Address.Compare(b.Address) })
	decisions := make([]Decision, len(addresses))
	var homeless []int
	for i := range addresses {
		a := &addresses[i]
		node, reason := p.stays(a)
		decisions[i] = Decision{a.Address, node, reason}
		if reason == Kept {
			p.load[node]++
		} else if reason > Kept {
			homeless = append(homeless, i)
		}
	}
	// Whoever has no choice goes first.
	var groups []*group
	for _, i := range homeless {
		g := p.choice(&addresses[i])
		if decisions[i].Reason == Adopted {
			decisions[i].Node = election.First(decisions[i].Address, g.nodes)
			p.load[decisions[i].Node]++
			continue
		}
		if len(g.waiting) == 0 {
			groups = append(groups, g)
		}
		g.waiting = append(g.waiting, i)
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(len(a.nodes), len(b.nodes)), cmp.Compare(a.key, b.key))
	})
	for _, g := range groups {
		// Those that a node answers for choose before those that are new.
		slices.SortFunc(g.waiting, func(i, j int) int {
			return cmp.Or(-cmp.Compare(decisions[i].Reason, decisions[j].Reason), cmp.Compare(i, j))
		})
		p.share(g, decisions)
	}
	return decisions
}

// A plan is the state of one Plan or Rebalance.
type plan struct {
	load map[string]int
	// groups are the sets of nodes that addresses have the choice of, by weight
	// and names.
	groups map[string]*group
	// whole and best memoize the group, and the greatest weight, of Nodes that
	// addresses share.
	whole map[whole]*group
	best  map[shared]int
}

// shared identifies a slice of Nodes.
type shared struct {
	first *Node
	n     int
}

// whole is the choice of an address that any of its nodes can serve.
type whole struct {
	nodes    shared
	failback lb.Failback
}

func identify(nodes []Node) shared { return shared{&nodes[0], len(nodes)} }

// A group is a set of equally good nodes.
type group struct {
	key    string
	weight int
	nodes  []string // ascending
	// waiting are the indexes of the addresses to share out among the nodes.
	waiting []int
}

func newPlan(load map[string]int) *plan {
	p := &plan{
		load: make(map[string]int, len(load)), groups: map[string]*group{},
		whole: map[whole]*group{}, best: map[shared]int{},
	}
	for n, c := range load {
		p.load[n] = c
	}
	return p
}

// stays returns where an address stays and why, or, with a Reason greater than
// Kept and no node, why it needs a place.
func (p *plan) stays(a *Address) (node string, reason Reason) {
	if !a.Advertised {
		return "", Unadvertised
	}
	if len(a.Nodes) == 0 {
		return a.Placed, NoNode
	}
	weight, may := weightOf(a)
	switch {
	case a.Placed == "" && a.InService:
		return "", Adopted
	case a.Placed == "":
		return "", New
	case !may:
		return "", Displaced
	case a.Failback == lb.FailbackImmediate && weight < p.greatest(a.Nodes):
		return "", Preferred
	default:
		return a.Placed, Kept
	}
}

// weightOf returns the weight of the node where a is recorded, and whether it
// may announce a at all.
func weightOf(a *Address) (weight int, may bool) {
	i, found := slices.BinarySearchFunc(a.Nodes, a.Placed, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !found {
		return 0, false
	}
	return a.Nodes[i].Weight, true
}

// greatest returns the greatest weight of some nodes.
func (p *plan) greatest(nodes []Node) int {
	best, known := p.best[identify(nodes)]
	if !known {
		best = slices.MaxFunc(nodes, func(a, b Node) int { return a.Weight - b.Weight }).Weight
		p.best[identify(nodes)] = best
	}
	return best
}

// choice returns the nodes that are best for an address that some may announce.
//
// With failback Never its place is where it will be: on a node that is ready,
// where its endpoints are if that matters, and of the greatest weight, in this
// order. With failback Immediate its place is what it returns to, so the weight
// comes first.
func (p *plan) choice(a *Address) *group {
	whole := whole{identify(a.Nodes), a.Failback}
	if len(a.Local) == 0 && p.whole[whole] != nil {
		return p.whole[whole]
	}
	better := func(n, o merit) int {
		fit := cmp.Or(cmp.Compare(n.ready, o.ready), cmp.Compare(n.local, o.local))
		if a.Failback == lb.FailbackImmediate {
			return cmp.Or(cmp.Compare(n.weight, o.weight), fit)
		}
		return cmp.Or(fit, cmp.Compare(n.weight, o.weight))
	}
	var (
		best  merit
		names []string
		local = a.Local
	)
	for i, n := range a.Nodes {
		m := merit{weight: n.Weight}
		if !n.NotReady {
			m.ready = 1
		}
		if len(local) > 0 && local[0] == i {
			m.local = 1
			local = local[1:]
		}
		if c := better(m, best); c > 0 || names == nil {
			best, names = m, []string{n.Name}
		} else if c == 0 {
			names = append(names, n.Name)
		}
	}
	g := p.group(best.weight, names)
	if len(a.Local) == 0 {
		p.whole[whole] = g
	}
	return g
}

// A merit is how good a node is for an address.
type merit struct{ ready, local, weight int }

// group returns the group of these nodes.
func (p *plan) group(weight int, names []string) *group {
	key := strconv.Itoa(weight) + " " + strings.Join(names, " ")
	g := p.groups[key]
	if g == nil {
		g = &group{key: key, weight: weight, nodes: names}
		p.groups[key] = g
	}
	return g
}

// share gives a node to each address that waits in a group, so that the loads
// become as even as they can.
func (p *plan) share(g *group, decisions []Decision) {
	level, extra := p.level(g.nodes, len(g.waiting))
	full := func(n string) bool { return p.load[n] > level || p.load[n] == level && extra == 0 }
	room := slices.DeleteFunc(slices.Clone(g.nodes), full)
	for _, i := range g.waiting {
		d := &decisions[i]
		d.Node = election.First(d.Address, room)
		p.load[d.Node]++
		if p.load[d.Node] > level {
			extra--
		}
		if full(d.Node) {
			// The last extra fills all that are at the level.
			room = slices.DeleteFunc(room, full)
		}
	}
	g.waiting = nil
}

// level returns up to which load all nodes can be filled by n addresses more,
// and how many are then left, which is less than the nodes at that load.
func (p *plan) level(nodes []string, n int) (level, left int) {
	loads := make([]int, len(nodes))
	for i, node := range nodes {
		loads[i] = p.load[node]
	}
	slices.Sort(loads)
	level = loads[0]
	for i, load := range loads {
		// The first i nodes stand at level; lift them to the next load.
		if need := i * (load - level); need > n {
			return level + n/i, n % i
		} else {
			n -= need
		}
		level = load
	}
	return level + n/len(nodes), n % len(nodes)
}
