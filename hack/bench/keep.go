package main

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// A greed is what the author of Services writes so that they cost much.
type greed struct {
	name string
	// than is what they are compared with.
	than string
	edit func(*corev1.Service, int)
}

// annotate gives a Service an annotation.
func annotate(s *corev1.Service, key, value string) {
	s.Annotations[key] = strings.Clone(value)
}

// share has a Service share its addresses with others of its key, on some ports.
func share(s *corev1.Service, key, first, ports int) {
	annotate(s, "belfry.dev/allow-shared-ip", fmt.Sprint("key-", key))
	s.Spec.Ports = nil
	for i := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: int32(first + 7*i)})
	}
}

// mostPorts is how many a Service has at most that shares.
const mostPorts = 100

// greeds are the ways to cost much that were found.
var greeds = []greed{
	{"plain", "", func(*corev1.Service, int) {}},
	{"annotations", "plain", func(s *corev1.Service, i int) {
		long := strings.Repeat("x", 10_000)
		for _, key := range []string{"reallocate", "move-to", "pool", "l2-node", "allow-shared-ip"} {
			annotate(s, "belfry.dev/"+key, fmt.Sprint(i, long))
		}
		annotate(s, "example.com/more", long)
	}},
	{"annotations that fit", "plain", func(s *corev1.Service, i int) {
		name := fmt.Sprintf("%04d%s", i, strings.Repeat("x", 249))
		annotate(s, "belfry.dev/address-pool", name)
		annotate(s, "belfry.dev/pool", name+","+name)
		annotate(s, "belfry.dev/l2-node", name+","+name)
		annotate(s, "belfry.dev/allow-shared-ip", name[:128])
		annotate(s, "belfry.dev/reallocate", name[:64])
		annotate(s, "belfry.dev/move-to", name)
	}},
	{"lists of addresses", "plain", func(s *corev1.Service, _ int) {
		annotate(s, "belfry.dev/loadBalancerIPs", strings.Repeat(",", 10_000))
		annotate(s, "metallb.io/loadBalancerIPs", strings.Repeat("2001:db8::1,", 1000))
		s.Spec.LoadBalancerIP = strings.Repeat("y", 10_000)
	}},
	{"addresses that are none", "plain", func(s *corev1.Service, _ int) {
		annotate(s, "belfry.dev/loadBalancerIPs", strings.Repeat("x", 80)+","+strings.Repeat("y", 80)+","+strings.Repeat("z", 80))
		s.Spec.LoadBalancerIP = strings.Repeat("y", 200)
	}},
	{"labels", "plain", func(s *corev1.Service, i int) {
		s.Labels = map[string]string{}
		for j := range 12 { // as many as are read
			s.Labels[fmt.Sprintf("%04d-%02d", i, j)] = strings.Repeat("v", 63)
		}
	}},
	{"selectors and external IPs", "plain", func(s *corev1.Service, i int) {
		s.Spec.Selector = map[string]string{}
		for j := range 1000 {
			s.Spec.Selector[fmt.Sprintf("%d-%d", i, j)] = strings.Repeat("v", 63)
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, fmt.Sprintf("203.0.%d.%d", j/256, j%256))
		}
	}},
	{"ports", "plain", func(s *corev1.Service, _ int) {
		for j := range 10_000 {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("port-", j), Protocol: "TCP", Port: int32(j + 1)})
		}
	}},
	{"one port that is shared", "", func(s *corev1.Service, i int) { share(s, i, 80, 1) }},
	{"ports, with a key of its own", "one port that is shared", func(s *corev1.Service, i int) { share(s, i, 1, mostPorts) }},
	{"two on one address", "", func(s *corev1.Service, i int) { share(s, i/2, 80+i%2, 1) }},
	{"ports, two on one address", "two on one address", func(s *corev1.Service, i int) { share(s, i/2, 1+i%2, mostPorts) }},
	{"two of one key", "", func(s *corev1.Service, i int) { share(s, i/2, 80, 1) }},
	{"ports, two of one key", "two of one key", func(s *corev1.Service, i int) { share(s, i/2, 1, mostPorts) }},
	{"all of one key", "", func(s *corev1.Service, _ int) { share(s, 0, 80, 1) }},
	{"ports, all of one key", "all of one key", func(s *corev1.Service, _ int) { share(s, 0, 1, mostPorts) }},
	{"all at once", "two of one key", func(s *corev1.Service, i int) {
		share(s, i/2, 1, mostPorts)
		for _, key := range []string{"reallocate", "move-to", "pool", "l2-node"} {
			annotate(s, "belfry.dev/"+key, fmt.Sprint(i, strings.Repeat("x", 10_000)))
		}
		s.Labels, s.Spec.Selector = map[string]string{}, map[string]string{}
		for j := range 12 {
			s.Labels[fmt.Sprintf("%04d-%02d", i, j)] = strings.Repeat("v", 63)
		}
		for j := range 100 {
			s.Spec.Selector[fmt.Sprintf("%d-%d", i, j)] = strings.Repeat("v", 63)
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, fmt.Sprintf("203.0.113.%d", j))
		}
	}},
}

// keep measures how much more of a Service is kept than is necessary, because of what its
// author writes.
func keep(ctx context.Context, b *bench) error {
	for _, c := range []struct {
		row  string
		role objects.Role
	}{{"keep/controller", objects.Allocating}, {"keep/speaker", objects.Announcing}} {
		kept := map[string]int{}
		most, whose := 0, "nothing"
		for _, g := range greeds {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n, err := keptOf(g, c.role)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", c.row, g.name, err)
			}
			kept[g.name] = n
			if more := n - kept[g.than]; g.than != "" && more > most {
				most, whose = more, g.name
			}
			b.say("  %s, %s: %d B, %d more than %s", c.row, g.name, n, n-kept[g.than], g.than)
		}
		b.found(c.row, float64(most), "for %s; of a plain Service %d B are kept", whose, kept["plain"])
	}
	return nil
}

// keptOf returns how many bytes are kept of one of many Services: what is read of it, and
// what its addresses are decided from.
func keptOf(g greed, role objects.Role) (int, error) {
	const n = 1000
	scope := objects.Scope{Role: role}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	read := func(i int, held []netip.Addr) *objects.Service {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "bench", Name: fmt.Sprintf("s%06d", i), UID: "u", Annotations: map[string]string{},
				CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(i) * time.Second)),
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1", "fd00::1"},
				IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack), Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80}},
			},
		}
		for _, a := range held {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: new(corev1.LoadBalancerIPModeVIP)})
		}
		g.edit(s, i)
		return scope.Service(s)
	}
	pools := []lb.Pool{pool("edge", "10.0.0.0", "10.0.255.255"), pool("six", "2001:db8::", "2001:db8::ffff")}
	held := make([][]netip.Addr, n) // by those whom another reading allocates to
	assign := func(put func(i int) lb.Service) (*allocator.Planner, error) {
		p := allocator.New()
		p.SetPools(pools)
		for i := range n {
			p.Put(put(i))
		}
		for _, d := range p.Plan(epoch).Services {
			var i int
			if _, err := fmt.Sscanf(d.Service.Name, "s%06d", &i); err != nil {
				return nil, err
			}
			held[i] = nil
			for _, a := range d.Assignments {
				held[i] = append(held[i], a.Address)
			}
			p.Put(d.Apply(put(i)))
		}
		p.Plan(epoch)
		return p, nil
	}
	if _, err := assign(func(i int) lb.Service {
		s := *scope.Service(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: fmt.Sprintf("s%06d", i)},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1"}},
		})
		return s.Service
	}); err != nil {
		return 0, err
	}
	before := heap()
	all := make([]*objects.Service, n)
	for i := range all {
		all[i] = read(i, held[i])
	}
	var decides any
	if role == objects.Allocating {
		p, err := assign(func(i int) lb.Service {
			s := all[i].Service
			s.Assigned, s.AssignedPools = nil, nil // so that it is decided who shares with whom
			return s
		})
		if err != nil {
			return 0, err
		}
		decides = p
	} else {
		s := lb.Snapshot{Pools: pools, L2Advertisements: []lb.L2Advertisement{{Name: "all"}}, Nodes: []lb.Node{{Name: "node1"}}}
		for _, service := range all {
			s.Services = append(s.Services, service.Service)
		}
		decides = announce.NewIndex(s, eligibility.Options{})
	}
	kept := int(heap()-before) / n
	runtime.KeepAlive(all)
	runtime.KeepAlive(decides)
	runtime.KeepAlive(slices.Clone(held))
	return kept, nil
}
