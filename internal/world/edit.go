package world

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// clone returns Objects whose lists may be changed; what is in them may not.
func (o Objects) clone() Objects {
	o.Services, o.Nodes, o.Slices = slices.Clone(o.Services), slices.Clone(o.Nodes), slices.Clone(o.Slices)
	o.Pools, o.L2Advertisements = slices.Clone(o.Pools), slices.Clone(o.L2Advertisements)
	o.BGPPeers, o.BGPAdvertisements = slices.Clone(o.BGPPeers), slices.Clone(o.BGPAdvertisements)
	o.Communities, o.BFDProfiles, o.Namespaces = slices.Clone(o.Communities), slices.Clone(o.BFDProfiles), slices.Clone(o.Namespaces)
	return o
}

// Apply returns the Objects once those in edits are applied: those that exist get the
// spec, labels and annotations of the edit and keep their status; the others are created
// at a time. Of a Node the labels, annotations and taints count.
func (o Objects) Apply(edits Objects, now time.Time) Objects {
	out := o.clone()
	for _, e := range edits.Nodes {
		out.Nodes = apply(out.Nodes, e, now, func(is, edit *corev1.Node) {
			if edit.Spec.Taints != nil {
				is.Spec.Taints = edit.Spec.Taints
			}
			if edit.Status.Addresses != nil {
				is.Status.Addresses = edit.Status.Addresses
			}
		})
	}
	for _, e := range edits.Services {
		out.Services = apply(out.Services, e, now, func(is, edit *corev1.Service) { out.service(is, edit) })
	}
	for _, e := range edits.Pools {
		out.Pools = apply(out.Pools, e, now, func(is, edit *v1beta1.IPAddressPool) { is.Spec = edit.Spec })
	}
	for _, e := range edits.L2Advertisements {
		out.L2Advertisements = apply(out.L2Advertisements, e, now, func(is, edit *v1beta1.L2Advertisement) { is.Spec = edit.Spec })
	}
	for _, e := range edits.BGPPeers {
		out.BGPPeers = apply(out.BGPPeers, e, now, func(is, edit *v1beta1.BGPPeer) { is.Spec = edit.Spec })
	}
	for _, e := range edits.BGPAdvertisements {
		out.BGPAdvertisements = apply(out.BGPAdvertisements, e, now, func(is, edit *v1beta1.BGPAdvertisement) { is.Spec = edit.Spec })
	}
	for _, e := range edits.Communities {
		out.Communities = apply(out.Communities, e, now, func(is, edit *v1beta1.Community) { is.Spec = edit.Spec })
	}
	for _, e := range edits.BFDProfiles {
		out.BFDProfiles = apply(out.BFDProfiles, e, now, func(is, edit *v1beta1.BFDProfile) { is.Spec = edit.Spec })
	}
	for _, e := range edits.Namespaces {
		out.Namespaces = apply(out.Namespaces, e, now, func(_, _ *corev1.Namespace) {})
	}
	return out
}

// An object is one of the API that can be copied.
type object[T any] interface {
	metav1.Object
	DeepCopy() T
}

// apply applies an edit to the object of its name, or adds it.
func apply[T object[T]](list []T, edit T, now time.Time, set func(is, edit T)) []T {
	i := slices.IndexFunc(list, func(o T) bool { return o.GetNamespace() == edit.GetNamespace() && o.GetName() == edit.GetName() })
	if i < 0 {
		made := edit.DeepCopy()
		made.SetCreationTimestamp(metav1.NewTime(now))
		made.SetUID(types.UID("planned " + edit.GetNamespace() + "/" + edit.GetName()))
		made.SetGeneration(1)
		set(made, edit)
		return append(list, made)
	}
	is := list[i].DeepCopy()
	is.SetLabels(united(is.GetLabels(), edit.GetLabels()))
	is.SetAnnotations(united(is.GetAnnotations(), edit.GetAnnotations()))
	is.SetGeneration(is.GetGeneration() + 1)
	set(is, edit)
	list[i] = is
	return list
}

func united(is, edit map[string]string) map[string]string {
	if len(edit) == 0 {
		return is
	}
	out := maps.Clone(edit)
	for k, v := range is {
		if _, set := edit[k]; !set {
			out[k] = v
		}
	}
	return out
}

// service sets the spec of a Service as the API server does: it keeps what the server
// gave it, and gives a new one cluster IPs.
func (o Objects) service(is, edit *corev1.Service) {
	was := is.Spec
	is.Spec = *edit.Spec.DeepCopy()
	s := &is.Spec
	if len(s.ClusterIPs) == 0 {
		s.ClusterIP, s.ClusterIPs = cmp.Or(s.ClusterIP, was.ClusterIP), was.ClusterIPs
	}
	if s.IPFamilyPolicy == nil {
		s.IPFamilyPolicy = was.IPFamilyPolicy
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = was.IPFamilies
	}
	if s.ClusterIP == corev1.ClusterIPNone || s.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	families := s.IPFamilies
	has := o.families()
	if len(families) == 0 {
		families = has[:1]
		if s.IPFamilyPolicy != nil && *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			families = has
		}
	}
	have := map[corev1.IPFamily]bool{}
	for _, ip := range s.ClusterIPs {
		have[familyOf(ip)] = true
	}
	for _, f := range families {
		if !have[f] {
			s.ClusterIPs = append(s.ClusterIPs, map[corev1.IPFamily]string{corev1.IPv4Protocol: "192.0.0.1", corev1.IPv6Protocol: "100::1"}[f])
		}
	}
}

// families are those of the cluster's own Services, the primary first.
func (o Objects) families() []corev1.IPFamily {
	best := []corev1.IPFamily{}
	for _, s := range o.Services {
		var these []corev1.IPFamily
		for _, ip := range s.Spec.ClusterIPs {
			if f := familyOf(ip); f != "" {
				these = append(these, f)
			}
		}
		if len(these) > len(best) {
			best = these
		}
	}
	for _, n := range o.Networks {
		for _, p := range n.Prefixes {
			if f := familyOf(p.Addr().String()); !slices.Contains(best, f) {
				best = append(best, f)
			}
		}
	}
	if len(best) == 0 {
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return best
}

func familyOf(ip string) corev1.IPFamily {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return ""
	}
	return corev1.IPFamily(lb.FamilyOf(a.Unmap()).String())
}

// Drain returns the Objects with nodes drained, or no longer.
func (o Objects) Drain(drain bool, nodes ...string) (Objects, error) {
	out := o.clone()
	for _, name := range nodes {
		i := slices.IndexFunc(out.Nodes, func(n *corev1.Node) bool { return n.Name == name })
		if i < 0 {
			return o, fmt.Errorf("there is no Node %q", name)
		}
		n := out.Nodes[i].DeepCopy()
		annotations := maps.Clone(n.Annotations)
		if annotations == nil {
			annotations = map[string]string{}
		}
		delete(annotations, objects.AnnotationDrain)
		if drain {
			annotations[objects.AnnotationDrain] = "true"
		}
		n.Annotations = annotations
		out.Nodes[i] = n
	}
	return out, nil
}

// Move returns the Objects with a Service that asks for a node by a new value.
func (o Objects) Move(key lb.ServiceKey, value string) (Objects, error) {
	out := o.clone()
	i := slices.IndexFunc(out.Services, func(s *corev1.Service) bool { return s.Namespace == key.Namespace && s.Name == key.Name })
	if i < 0 {
		return o, fmt.Errorf("there is no Service %s", key)
	}
	s := out.Services[i].DeepCopy()
	s.Annotations = united(s.Annotations, map[string]string{objects.AnnotationMove: value})
	out.Services[i] = s
	return out, nil
}

// Delete returns the Objects without one: "service/web/shop", "pool/edge", "node/n1". A
// pool in use stays until no Service holds an address of it, as its finalizer has it.
func (o Objects) Delete(kind, name, namespace string, now time.Time) (Objects, error) {
	out := o.clone()
	before := out.size()
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		namespace, name = ns, rest
	}
	named := func(m metav1.Object) bool { return m.GetName() == name }
	switch strings.TrimSuffix(strings.ToLower(kind), "s") {
	case "service", "svc":
		out.Services = slices.DeleteFunc(out.Services, func(s *corev1.Service) bool { return named(s) && s.Namespace == namespace })
	case "node":
		out.Nodes = slices.DeleteFunc(out.Nodes, func(n *corev1.Node) bool { return named(n) })
	case "pool", "ipaddresspool":
		i := slices.IndexFunc(out.Pools, func(p *v1beta1.IPAddressPool) bool { return named(p) })
		if i >= 0 {
			p := out.Pools[i].DeepCopy()
			at := metav1.NewTime(now)
			p.DeletionTimestamp = &at
			out.Pools[i] = p
			return out, nil
		}
	case "l2advertisement":
		out.L2Advertisements = slices.DeleteFunc(out.L2Advertisements, func(a *v1beta1.L2Advertisement) bool { return named(a) })
	case "bgpadvertisement":
		out.BGPAdvertisements = slices.DeleteFunc(out.BGPAdvertisements, func(a *v1beta1.BGPAdvertisement) bool { return named(a) })
	case "peer", "bgppeer":
		out.BGPPeers = slices.DeleteFunc(out.BGPPeers, func(p *v1beta1.BGPPeer) bool { return named(p) })
	case "community", "communitie":
		out.Communities = slices.DeleteFunc(out.Communities, func(c *v1beta1.Community) bool { return named(c) })
	case "bfdprofile":
		out.BFDProfiles = slices.DeleteFunc(out.BFDProfiles, func(p *v1beta1.BFDProfile) bool { return named(p) })
	default:
		return o, fmt.Errorf("unknown kind %q", kind)
	}
	if out.size() == before {
		return o, fmt.Errorf("there is no %s %q", kind, name)
	}
	return out, nil
}

// size is how many objects there are of the kinds that can be deleted.
func (o Objects) size() int {
	return len(o.Services) + len(o.Nodes) + len(o.Pools) + len(o.L2Advertisements) + len(o.BGPAdvertisements) + len(o.BGPPeers) + len(o.Communities) + len(o.BFDProfiles)
}
