package objects

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// AnnotationDrain on a Node drains it of addresses when it says "true".
const AnnotationDrain = "belfry.dev/drain"

// AnnotationDetection on a Node says how its failure is to be detected: "fast" or
// "standard". Whatever else it says is ignored.
const AnnotationDetection = "belfry.dev/detection"

// Node keeps of a Node what announcing depends on.
func (o Scope) Node(n *corev1.Node) lb.Node {
	out := lb.Node{Name: n.Name, Labels: n.Labels}
	// InternalIPs come first: the speakers reach each other by them.
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type != kind {
				continue
			}
			if ip, ok := address(a.Address); ok && !slices.Contains(out.Addresses, ip) {
				out.Addresses = append(out.Addresses, ip)
			}
		}
	}
	for _, text := range n.Spec.PodCIDRs {
		if network, err := netip.ParsePrefix(text); err == nil {
			out.PodNetworks = append(out.PodNetworks, network.Masked())
		}
	}
	for _, c := range n.Status.Conditions {
		switch c.Type {
		case corev1.NodeNetworkUnavailable:
			out.NetworkUnavailable = c.Status == corev1.ConditionTrue
		case corev1.NodeReady:
			out.NotReady = c.Status != corev1.ConditionTrue
		}
	}
	out.Drain = n.Annotations[AnnotationDrain] == "true"
	out.Detection, _ = lb.ParseDetection(n.Annotations[AnnotationDetection])
	if o.DrainTaint != "" && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == o.DrainTaint }) {
		out.Drain = true
	}
	return out
}

// Network keeps of a ServiceCIDR its prefixes.
func Network(name string, cidrs []string) lb.ServiceNetwork {
	out := lb.ServiceNetwork{Name: name}
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.Prefixes = append(out.Prefixes, p.Masked())
		}
	}
	return out
}
