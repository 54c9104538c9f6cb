package objects

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// maxExternalIPs is how many externalIPs of one Service are read, the first
// (docs/design/bounds.md).
const maxExternalIPs = 16

// ExternalIPs returns the addresses that a Service names in its externalIPs.
func ExternalIPs(s *corev1.Service) (all []netip.Addr) {
	for _, text := range s.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err == nil && len(all) < maxExternalIPs {
			all = append(all, a.Unmap())
		}
	}
	return all
}
