package kube

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// networking is the group of ServiceCIDRs. Its package in k8s.io/api would bring all
// its kinds into both programs, NetworkPolicies and Ingresses among them: 0.5 MB.
var networking = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}

// A ServiceCIDR is what we read of one.
type ServiceCIDR struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		CIDRs []string `json:"cidrs,omitempty"`
	} `json:"spec,omitempty"`
}

// A ServiceCIDRList is a list of them.
type ServiceCIDRList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceCIDR `json:"items"`
}

func (o *ServiceCIDR) copy() *ServiceCIDR {
	out := *o
	out.ObjectMeta = *o.ObjectMeta.DeepCopy()
	out.Spec.CIDRs = slices.Clone(o.Spec.CIDRs)
	return &out
}

// DeepCopyObject returns a copy that shares nothing with the original.
func (o *ServiceCIDR) DeepCopyObject() runtime.Object { return o.copy() }

// DeepCopyObject returns a copy that shares nothing with the original.
func (l *ServiceCIDRList) DeepCopyObject() runtime.Object {
	out := *l
	out.ListMeta = *l.ListMeta.DeepCopy()
	out.Items = make([]ServiceCIDR, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].copy()
	}
	return &out
}

// reduceNetwork keeps of a ServiceCIDR its prefixes.
func reduceNetwork(o *ServiceCIDR) lb.ServiceNetwork { return objects.Network(o.Name, o.Spec.CIDRs) }

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
