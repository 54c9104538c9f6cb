package objects

import (
	"slices"
	"strings"
	"unique"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Slice is an EndpointSlice reduced to counts.
type Slice struct {
	Service lb.ServiceKey
	// family is the slice's; it is 0 for names, which take no traffic of ours.
	family lb.Family
	// counts are sorted by node.
	counts []nodeCount
}

type nodeCount struct {
	node string
	lb.EndpointCount
}

// ReadSlice counts the endpoints that could take traffic, by node. As in
// kube-proxy, an endpoint that says nothing of ready or serving is ready, or
// serves.
func ReadSlice(s *discoveryv1.EndpointSlice) Slice {
	out := Slice{Service: lb.ServiceKey{
		Namespace: s.Namespace,
		Name:      s.Labels[discoveryv1.LabelServiceName],
	}}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4:
		out.family = lb.IPv4
	case discoveryv1.AddressTypeIPv6:
		out.family = lb.IPv6
	default:
		return out
	}
	for _, e := range s.Endpoints {
		var c lb.EndpointCount
		switch {
		case unlessFalse(e.Conditions.Ready):
			c.Ready = 1
		case unlessFalse(e.Conditions.Serving) && is(e.Conditions.Terminating):
			c.Terminating = 1
		default:
			continue
		}
		node := ""
		if e.NodeName != nil {
			node = *e.NodeName
		}
		i, found := slices.BinarySearchFunc(out.counts, node, func(n nodeCount, node string) int { return strings.Compare(n.node, node) })
		if !found {
			out.counts = slices.Insert(out.counts, i, nodeCount{node: unique.Make(node).Value()})
		}
		out.counts[i].Ready += c.Ready
		out.counts[i].Terminating += c.Terminating
	}
	return out
}

func is(b *bool) bool { return b != nil && *b }

func unlessFalse(b *bool) bool { return b == nil || *b }

// Equal reports whether both count the same.
func (s *Slice) Equal(o *Slice) bool {
	return s.Service == o.Service && s.family == o.family && slices.Equal(s.counts, o.counts)
}

// SumSlices counts the endpoints of one Service.
func SumSlices(all []*Slice) (out lb.Endpoints) {
	for _, s := range all {
		var sum *lb.NodeEndpoints
		switch s.family {
		case lb.IPv4:
			sum = &out.IPv4
		case lb.IPv6:
			sum = &out.IPv6
		default:
			continue
		}
		for _, n := range s.counts {
			if *sum == nil {
				*sum = lb.NodeEndpoints{}
			}
			c := (*sum)[n.node]
			c.Ready += n.Ready
			c.Terminating += n.Terminating
			(*sum)[n.node] = c
		}
	}
	return out
}
