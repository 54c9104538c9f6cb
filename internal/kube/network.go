package kube

import (
	"cmp"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// reduceNetwork keeps of a ServiceCIDR its prefixes.
func reduceNetwork(o *networkingv1.ServiceCIDR) lb.ServiceNetwork {
	out := lb.ServiceNetwork{Name: o.Name}
	for _, text := range o.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.Prefixes = append(out.Prefixes, p.Masked())
		}
	}
	return out
}

func (c *Cluster) networkChanged(was, is *row[lb.ServiceNetwork]) {
	if was != nil && is != nil && slices.Equal(was.value.Prefixes, is.value.Prefixes) {
		return
	}
	c.changes.networks = true
	c.notify()
}

// ServiceNetworks returns the networks of cluster IPs, by name, as far as the API server
// tells.
func (c *Cluster) ServiceNetworks() []lb.ServiceNetwork {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(rows(c.networks), func(a, b lb.ServiceNetwork) int { return cmp.Compare(a.Name, b.Name) })
}
