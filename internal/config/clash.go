package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
	"github.com/belfrylb/belfry/internal/ranges"
)

// maxClashes is how many addresses or networks of the cluster a pool is told of.
const maxClashes = 5

// Clashes says of divided pools, by name, which of their addresses the cluster has for
// itself: those of Nodes, which are never handed out, and those of the networks of Pods
// and Services, which are. Nothing depends on the order of pools and Nodes.
func Clashes(pools []lb.Pool, nodes []lb.Node, services []lb.ServiceNetwork) map[string][]Problem {
	type clash struct {
		addresses, networks, services []string
		// taken are those of the addresses that are the pool's.
		taken []lb.AddressRange
	}
	found := map[*lb.Pool]*clash{}
	origins := origin.New(pools, nil)
	meet := func(r lb.AddressRange, each func(c *clash, both lb.AddressRange)) {
		origins.Across(r, func(p *lb.Pool, both lb.AddressRange) {
			c := found[p]
			if c == nil {
				c = &clash{}
				found[p] = c
			}
			each(c, both)
		})
	}
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b lb.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		for _, a := range n.Addresses {
			meet(lb.AddressRange{First: a, Last: a}, func(c *clash, both lb.AddressRange) {
				c.addresses = append(c.addresses, fmt.Sprintf("%v of %s", a, n.Name))
				c.taken = append(c.taken, both)
			})
		}
		for _, network := range n.PodNetworks {
			meet(ranges.Of(network), func(c *clash, both lb.AddressRange) {
				c.networks = append(c.networks, fmt.Sprintf("%v of %s", both, n.Name))
			})
		}
	}
	for _, n := range services {
		for _, network := range n.Prefixes {
			meet(ranges.Of(network), func(c *clash, both lb.AddressRange) {
				c.services = append(c.services, fmt.Sprintf("%v of %s", both, n.Name))
			})
		}
	}

	problems := map[string][]Problem{}
	for p, c := range found {
		tell := func(format string, names []string) {
			problems[p.Name] = append(problems[p.Name], Problem{"spec.addresses", v1beta1.ReasonOverlaps, fmt.Sprintf(format, some(names))})
		}
		switch {
		case len(c.taken) > 0 && len(ranges.Subtract(p.Ranges, ranges.Union(c.taken))) == 0:
			tell("there is nothing to hand out, since all addresses are Nodes' own: %s", c.addresses)
		case len(c.taken) > 0:
			tell("Nodes' own addresses are neither handed out nor announced: %s", c.addresses)
		}
		if len(c.networks) > 0 {
			tell("Pods may have the same addresses, so exclude the networks of Pods: %s", c.networks)
		}
		if len(c.services) > 0 {
			tell("Services may have the same addresses as cluster IPs, so exclude the networks of Services: %s", c.services)
		}
	}
	return problems
}

// Deleting says what a pool that is being deleted waits for.
func Deleting(held []v1beta1.OrphanedAddress) Problem {
	if len(held) == 0 {
		return Problem{
			"metadata.deletionTimestamp", v1beta1.ReasonDeleting,
			"no Service holds an address of the pool; finalizers of others keep it",
		}
	}
	var names []string
	for _, o := range held {
		names = append(names, fmt.Sprintf("%s (%s)", o.Service, o.Address))
	}
	return Problem{
		"metadata.deletionTimestamp", v1beta1.ReasonDeleting,
		fmt.Sprintf("the pool stays until no Service holds an address of it; these keep theirs until they are deleted or "+
			"moved by a new value of belfry.dev/reallocate: %s", some(names)),
	}
}

// some lists the first names and counts the rest.
func some(names []string) string {
	if more := len(names) - maxClashes; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxClashes], ", "), more)
	}
	return strings.Join(names, ", ")
}
