package world

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/lb"
)

// An Inheritance is what becomes of an address that another load balancer gave a Service.
type Inheritance struct {
	Service string `json:"service"`
	Address string `json:"address"`
	// Kept is set when the Service keeps the address; Pool is then the one that has it.
	Kept bool   `json:"kept"`
	Pool string `json:"pool,omitempty"`
	// Was are the nodes that announce it now, as far as that is known, and Will says who
	// will; its absence stands for none.
	Was  []string `json:"was,omitempty"`
	Will string   `json:"will,omitempty"`
	// Why says what is in the way.
	Why string `json:"why,omitempty"`
}

// Inherit returns what becomes, in an end, of each address that a Service of ours has, in
// the order of the Services and their addresses, and how many Services of which
// loadBalancerClass are left to others.
func (w *World) Inherit(after *Outcome, was map[lb.ServiceKey][]string) (_ []Inheritance, others map[string]int) {
	others = map[string]int{}
	c := &comparison{after: after, routed: [2]map[netip.Addr][]string{1: after.routed()}}
	out := []Inheritance{}
	all := slices.SortedFunc(slices.Values(w.objects.Services), func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range all {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		key := lb.ServiceKey{Namespace: s.Namespace, Name: s.Name}
		d, ours := after.Decisions[key]
		if !ours || d.Reason == allocator.NotOurs {
			class := ""
			if s.Spec.LoadBalancerClass != nil {
				class = *s.Spec.LoadBalancerClass
			}
			others[class]++
			continue
		}
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			line := Inheritance{Service: key.String(), Address: cmp.Or(ingress.IP, ingress.Hostname), Was: was[key]}
			a, err := netip.ParseAddr(ingress.IP)
			i := slices.IndexFunc(d.Assignments, func(g allocator.Assignment) bool { return g.Address == a })
			if i >= 0 {
				line.Kept, line.Pool = true, d.Assignments[i].Pool
				if line.Will = c.announcer(1, a); line.Will == "" {
					line.Why = "no node announces it: " + c.silence(a)
				}
			} else if line.Why = d.Sentence(); err == nil && len(d.Assignments) > 0 {
				line.Why = "no pool has it; the Service gets " + line.Why
			}
			out = append(out, line)
		}
	}
	return out, others
}
