package kube

import (
	"slices"
	"strings"
	"unique"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// A slice is an EndpointSlice reduced to counts.
type slice struct {
	service lb.ServiceKey
	// family is the slice's; it is 0 for names, which take no traffic of ours.
	family lb.Family
	// counts are sorted by node.
	counts []nodeCount
}

type nodeCount struct {
	node string
	lb.EndpointCount
}

// reduceSlice counts the endpoints that could take traffic, by node. As in
// kube-proxy, an endpoint without readiness is ready, and one that says nothing
// of serving serves while it is ready.
func reduceSlice(s *discoveryv1.EndpointSlice) slice {
	out := slice{service: lb.ServiceKey{
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
		switch ready := e.Conditions.Ready; {
		case ready == nil || *ready:
			c.Ready = 1
		case is(e.Conditions.Serving) && is(e.Conditions.Terminating):
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

func (s *slice) equal(o *slice) bool {
	return s.service == o.service && s.family == o.family && slices.Equal(s.counts, o.counts)
}

// sumSlices counts the endpoints of one Service. A dual-stack Pod stands in a
// slice of each family; it is one endpoint, so the larger count holds.
func sumSlices(all []*slice) lb.Endpoints {
	byFamily := map[lb.Family]lb.Endpoints{}
	for _, s := range all {
		if s.family == 0 {
			continue
		}
		sum := byFamily[s.family]
		if sum == nil {
			sum = lb.Endpoints{}
			byFamily[s.family] = sum
		}
		for _, n := range s.counts {
			c := sum[n.node]
			c.Ready += n.Ready
			c.Terminating += n.Terminating
			sum[n.node] = c
		}
	}
	out := byFamily[lb.IPv4]
	if out == nil {
		return byFamily[lb.IPv6]
	}
	for node, six := range byFamily[lb.IPv6] {
		four := out[node]
		out[node] = lb.EndpointCount{Ready: max(four.Ready, six.Ready), Terminating: max(four.Terminating, six.Terminating)}
	}
	return out
}
