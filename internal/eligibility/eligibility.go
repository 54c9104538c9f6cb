// Package eligibility decides what announcing an address depends on by whatever
// protocol: which addresses are in use and who shares them, which pools they came from,
// which advertisements select them, whether their traffic has endpoints to go to, and
// whether a node is fit. Package announce adds interfaces, members and an election to
// it; package bgp adds peers and routes.
//
// What keeps a node from announcing is a [Reason]. Both protocols tell theirs from the
// one list, in its one order.
package eligibility

import (
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// Options are the operator's switches that bear on which nodes may announce.
type Options struct {
	// IgnoreExcludeLB lets nodes announce that have the label [lb.LabelExcludeLB].
	IgnoreExcludeLB bool
}

// Fitness returns what keeps a node from announcing anything: [NodeExcluded],
// [NetworkUnavailable] or [Draining]; else [Eligible].
func (o Options) Fitness(n *lb.Node) Reason {
	_, excluded := n.Labels[lb.LabelExcludeLB]
	switch {
	case excluded && !o.IgnoreExcludeLB:
		return NodeExcluded
	case n.NetworkUnavailable:
		return NetworkUnavailable
	case n.Drain:
		return Draining
	default:
		return Eligible
	}
}

// An Address is one address in use. It does not change.
type Address struct {
	Addr netip.Addr
	// Services share it; by key. Pools has for each the pool that it came from.
	Services []*lb.Service
	Pools    []string
	// Node has it for itself; empty when no Node has.
	Node string
	// Usable is set when an endpoint of the address's family takes traffic somewhere,
	// and Anywhere when traffic may arrive at any node for that, because a Service
	// that has one is TrafficCluster. (The allocator does not let the two policies
	// share.)
	Usable, Anywhere bool
}

// Addresses returns the addresses in use, ascending. Those in a Service's status that
// are not ours are not among them. The order of the snapshot's slices does not matter.
// The result refers to the snapshot's Services.
func Addresses(s lb.Snapshot) []Address {
	origins := origin.New(s.Pools, s.Nodes)
	out := make([]Address, 0, len(s.Services))
	at := make(map[netip.Addr]int, len(s.Services))
	for i := range s.Services {
		svc := &s.Services[i]
		if svc.Released || svc.Foreign {
			continue
		}
		for _, a := range svc.Assigned {
			from := origins.Of(svc, a)
			if from.Standing == origin.Foreign {
				continue
			}
			n, known := at[a]
			if !known {
				n = len(out)
				at[a] = n
				out = append(out, Address{Addr: a, Node: from.Node})
			}
			out[n].Services = append(out[n].Services, svc)
		}
	}
	slices.SortFunc(out, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
	for i := range out {
		out[i].complete(origins)
	}
	return out
}

// complete works out what follows from the Services.
func (a *Address) complete(origins *origin.Index) {
	slices.SortFunc(a.Services, func(x, y *lb.Service) int { return x.Key.Compare(y.Key) })
	a.Services = slices.Compact(a.Services) // one may list an address twice
	a.Pools = make([]string, len(a.Services))
	for i, s := range a.Services {
		a.Pools[i] = origins.Of(s, a.Addr).Pool
		usable := s.Endpoints.Of(lb.FamilyOf(a.Addr)).Serving(lb.TrafficCluster, "") > lb.Idle
		a.Usable = a.Usable || usable
		a.Anywhere = a.Anywhere || usable && s.TrafficPolicy == lb.TrafficCluster
	}
}

// Family returns the address's family.
func (a *Address) Family() lb.Family { return lb.FamilyOf(a.Addr) }

// Idle returns [NoEndpoint] or [NoLocalEndpoint] when traffic that arrives at a node
// has no endpoint to go to; else [Eligible].
func (a *Address) Idle(node string) Reason {
	switch {
	case !a.Usable:
		return NoEndpoint
	case a.Anywhere:
		return Eligible
	}
	for _, s := range a.Services {
		if s.Endpoints.Of(a.Family())[node].Serving() > lb.Idle {
			return Eligible
		}
	}
	return NoLocalEndpoint
}

// Serving calls each with every node that has endpoints which take the address's
// traffic, and what they can do. It calls it once for each Service that has some there.
func (a *Address) Serving(each func(node string, serving lb.Serving)) {
	for _, s := range a.Services {
		for node, c := range s.Endpoints.Of(a.Family()) {
			if serving := c.Serving(); serving > lb.Idle {
				each(node, serving)
			}
		}
	}
}

// A Selection answers which of some advertisements, all of one protocol, select an
// address. It does not change.
type Selection struct {
	scopes []lb.Scope
	// pools has for every advertisement the names of the pools that it selects; nil
	// for one that selects every pool.
	pools []map[string]bool
}

// NewSelection returns the Selection of advertisements with these scopes.
func NewSelection(scopes []lb.Scope, pools []lb.Pool) *Selection {
	s := &Selection{scopes: scopes, pools: make([]map[string]bool, len(scopes))}
	for i, scope := range scopes {
		if len(scope.Pools) == 0 && len(scope.PoolSelectors) == 0 {
			continue
		}
		names := make(map[string]bool, len(scope.Pools))
		for _, name := range scope.Pools {
			names[name] = true // also of a pool that is gone: its addresses stay
		}
		for _, pool := range pools {
			if scope.SelectsPool(pool.Name, pool.Labels) {
				names[pool.Name] = true
			}
		}
		s.pools[i] = names
	}
	return s
}

// Selects reports whether advertisement i selects every Service that shares an address
// and the pools that it came from. None selects an address that a Node has for itself.
func (s *Selection) Selects(i int, a *Address) bool {
	if a.Node != "" {
		return false
	}
	for n, svc := range a.Services {
		if s.pools[i] != nil && !s.pools[i][a.Pools[n]] {
			return false
		}
		if !svc.Labels.SelectedBy(s.scopes[i].ServiceSelectors) {
			return false
		}
	}
	return true
}
