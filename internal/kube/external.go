package kube

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// otherServices leaves out those of type LoadBalancer.
func otherServices(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = "spec.type!=" + string(corev1.ServiceTypeLoadBalancer)
	return o
}

func (c *Cluster) externalChanged(was, is []netip.Addr) {
	if !slices.Equal(was, is) {
		c.changes.external = true
		c.notify()
	}
}

func (c *Cluster) otherServiceChanged(was, is *row[[]netip.Addr]) {
	var old, now []netip.Addr
	if was != nil {
		old = was.value
	}
	if is != nil {
		now = is.value
	}
	c.externalChanged(old, now)
}

// externalOf returns the externalIPs of a Service, if there is one.
func externalOf(s *objects.Service) []netip.Addr {
	if s == nil {
		return nil
	}
	return s.External
}

// ExternalIPs returns the externalIPs of Services of any type and class, in no order.
func (c *Cluster) ExternalIPs() (all []lb.ExternalIP) {
	c.mu.Lock()
	defer c.mu.Unlock()
	enter := func(n name, addresses []netip.Addr) {
		for _, a := range addresses {
			all = append(all, lb.ExternalIP{Address: a, Service: lb.ServiceKey{Namespace: n.Namespace, Name: n.Name}})
		}
	}
	for n, r := range c.others.rows {
		enter(n, r.value)
	}
	for n, r := range c.services.rows {
		enter(n, externalOf(r.value))
	}
	return all
}
