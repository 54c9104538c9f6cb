package objects

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// Annotations of a Service that are asked of us, by name after the prefix.
const (
	askAddresses = "loadBalancerIPs"
	askPool      = "address-pool"
	askSharing   = "allow-shared-ip"
)

// prefixes are where the asking annotations are looked for. The first that has
// one decides; MetalLB's let its users' manifests stay as they are.
var prefixes = [...]string{"belfry.dev/", "metallb.io/", "metallb.universe.tf/"}

// Reads reports whether an annotation is of those that are read here.
func Reads(annotation string) bool {
	return slices.ContainsFunc(prefixes[:], func(p string) bool { return strings.HasPrefix(annotation, p) })
}

// Annotations that are ours alone.
const (
	// AnnotationReallocate asks for a fresh address by any new value.
	AnnotationReallocate = "belfry.dev/reallocate"
	// AnnotationPool names the pool of each address in status, in their order,
	// separated by commas; one name when all are equal.
	AnnotationPool = "belfry.dev/pool"
	// AnnotationMove asks to have the addresses announced by a node, by its name; any
	// text after a blank makes it a new value.
	AnnotationMove = "belfry.dev/move-to"
	// AnnotationPlaced names the node where layer 2 places each address in status,
	// likewise.
	AnnotationPlaced = "belfry.dev/l2-node"
)

// DefaultNamespace is where we are installed by default.
const DefaultNamespace = "belfry-system"

// A ConditionType is the type of a condition of ours on a Service.
type ConditionType string

// The conditions of a Service.
const (
	ConditionAllocated ConditionType = "belfry.dev/Allocated"
	ConditionAnnounced ConditionType = "belfry.dev/Announced"
	// ConditionSharing records on which terms a Service shares its addresses, where
	// those who may edit it cannot: so it is known who was edited when some can no
	// longer share.
	ConditionSharing ConditionType = "belfry.dev/Sharing"
	// ConditionRecorded is our record of what we gave, and of which installation of
	// ours it was (gift). Whoever may edit a Service cannot write it.
	ConditionRecorded ConditionType = "belfry.dev/Recorded"
	// ConditionReallocated has the last value of AnnotationReallocate that was honored.
	ConditionReallocated ConditionType = "belfry.dev/Reallocated"
	// ConditionPlaced is our record of where layer 2 places each address.
	ConditionPlaced ConditionType = "belfry.dev/Placed"
	// ConditionMoved has the last value of AnnotationMove that was answered.
	ConditionMoved ConditionType = "belfry.dev/Moved"
)

// A Condition is a condition of ours on an object: what holds and why. The zero
// Condition stands for none.
type Condition struct {
	Status  metav1.ConditionStatus
	Reason  string
	Message string
	// Since is when Status last changed.
	Since metav1.Time
}

// Announces reports whether, by the condition Announced, a node answers for the
// addresses or advertises them: even if others answer as well, or none hears it.
func (c Condition) Announces() bool {
	return c.Status == metav1.ConditionTrue || c.Reason == proof.AnsweredTwice.String() || c.Reason == proof.Unanswered.String()
}

// A Service is a Service that is ours, or that still carries something of ours.
type Service struct {
	lb.Service
	// Version is the resource version that all of this was read from.
	Version string
	// Allocated and Announced are the conditions it shows.
	Allocated, Announced Condition
	// recorded, reallocated, placed and moved are those that it shows of these.
	recorded, reallocated, placed, moved Condition
	// ingress is that of its status where it is not Exact.
	ingress []corev1.LoadBalancerIngress
	// Exact is set when status holds Assigned and nothing else, the way we write
	// it.
	Exact bool
	// Marked is set when it carries a condition of ours: proof that an installation of
	// ours gave it something, since a user who may edit a Service may not write its
	// status. Annotations prove nothing.
	Marked bool
	// by is the installation that its record names, empty if there is no record; us is
	// the one that reads it.
	by, us string
	// Seen is when this version was received.
	Seen time.Time
	// sharing is the condition that records lb.Service.Terms.
	sharing Condition
	// poolShown and placeShown are digests of the annotations that tell of these, whoever
	// wrote them.
	poolShown, placeShown uint64
	// Edition is a digest of what its owner wrote, for the allocator: all but its
	// status and our annotations.
	Edition uint64
	// External are its externalIPs, for the allocator; ExternalOnly is set when they are
	// all that concerns us of it.
	External     []netip.Addr
	ExternalOnly bool
}

// Reference names the Service in Events.
func (s *Service) Reference() corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service",
		Namespace: s.Key.Namespace, Name: s.Key.Name, UID: types.UID(s.UID), ResourceVersion: s.Version,
	}
}

// RecordedBy returns the namespace of the installation whose record the Service carries,
// if that is another than the one that reads it.
func (s *Service) RecordedBy() (namespace string, other bool) {
	return s.by, s.by != "" && s.by != s.us
}

// InService reports whether a node may be answering for the addresses in its status: a
// speaker said so, or they come from a program that was here before us.
func (s *Service) InService() bool { return s.Announced.Announces() || s.Allocated == Condition{} }

// Shows reports whether the status shows an address.
func (s *Service) Shows(a netip.Addr) bool {
	return slices.Contains(s.Assigned, a) && !slices.Contains(s.Withdrawn, a)
}

// A Role is what a cluster is read for.
type Role uint8

// Roles.
const (
	// Announcing needs to know what is assigned, not how that came about.
	Announcing Role = iota
	// Allocating needs the free lists in the pools' status, the labels of namespaces and
	// what the speakers report besides.
	Allocating
)

// A Scope says which part of the cluster concerns us.
type Scope struct {
	Role Role
	// Class decides which Services are ours.
	Class Class
	// DrainTaint is the key of a taint that drains a Node; empty for none.
	DrainTaint string
	// Namespace is the one we are installed in, where the Secrets are that BGP
	// peers name; empty for none.
	Namespace string
}

// A Class decides which Services are ours.
type Class string

// ours reports whether the Service is one that asks us for an address.
func (c Class) ours(s *corev1.Service) bool {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.DeletionTimestamp != nil {
		return false
	}
	if s.Spec.LoadBalancerClass == nil {
		return c == ""
	}
	return c != "" && *s.Spec.LoadBalancerClass == string(c)
}

// installation is how a record names the installation: by its namespace.
func (o Scope) installation() string { return cmp.Or(o.Namespace, DefaultNamespace) }

// Service reduces a Service to what decisions depend on. Those that are not ours
// and hold nothing of ours give nil. One that is not ours is released only if its
// record names this installation. Any other that is marked is another's: it gives nil
// too, except that the allocator must know which addresses it has.
func (o Scope) Service(s *corev1.Service) *Service {
	out := &Service{Version: s.ResourceVersion, us: o.installation()}
	for _, have := range s.Status.Conditions {
		kept := Condition{Status: have.Status, Reason: have.Reason, Message: short(have.Message, MaxMessage), Since: have.LastTransitionTime}
		switch ConditionType(have.Type) {
		case ConditionAllocated:
			out.Allocated = kept
		case ConditionAnnounced:
			out.Announced = kept
		case ConditionSharing:
			out.sharing = kept
		case ConditionRecorded:
			out.recorded = kept
		case ConditionReallocated:
			out.reallocated = kept
		case ConditionPlaced:
			out.placed = kept
		case ConditionMoved:
			out.moved = kept
		}
	}
	gave := parseRecord(out.recorded.Message)
	out.by = gave.by
	for _, c := range [...]Condition{out.Allocated, out.Announced, out.recorded, out.reallocated, out.placed, out.moved, out.sharing} {
		out.Marked = out.Marked || c != Condition{}
	}
	ours := o.Class.ours(s)
	foreign := !ours && out.by != out.us
	if !ours && !out.Marked || foreign && (o.Role != Allocating || s.Spec.Type != corev1.ServiceTypeLoadBalancer) {
		return nil
	}
	out.Service = lb.Service{
		Key:           lb.ServiceKey{Namespace: s.Namespace, Name: s.Name},
		UID:           string(s.UID),
		Created:       s.CreationTimestamp.Time,
		FamilyPolicy:  familyPolicy(s.Spec.IPFamilyPolicy),
		Headless:      s.Spec.ClusterIP == corev1.ClusterIPNone,
		TrafficPolicy: trafficPolicy(s.Spec.ExternalTrafficPolicy),
		Reallocated:   out.reallocated.Message,
		Moved:         lb.Move{Token: out.moved.Message, Refused: out.moved.Reason == refused},
		Announced:     out.Announced.Announces(),
		Released:      !ours && !foreign,
		Foreign:       foreign,
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out.Families = append(out.Families, lb.FamilyOf(a.Unmap()))
		}
	}
	out.Assigned, out.Exact = assigned(s.Status.LoadBalancer.Ingress)
	if o.Role == Allocating {
		out.Assigned, out.Withdrawn = gave.withdrawn(out.Assigned)
		out.Exact = out.Exact && out.Withdrawn == nil
	} else { // only what is shown is announced
		out.Assigned = gave.shown(out.Assigned)
	}
	out.AssignedPools = namesOf(out.Assigned, gave.addresses, gave.pools)
	at, nodes := parsePairs(out.placed.Message, recordOn)
	out.Placed = namesOf(out.Assigned, at, nodes)
	if !out.Exact {
		out.ingress = s.Status.LoadBalancer.Ingress
		out.Others = others(out.ingress)
	}
	var whole bool
	out.Labels, whole = readLabels(s.Labels)
	if o.Role != Allocating {
		return out // announcing does not depend on what was asked for
	}
	out.poolShown, out.placeShown = told(s.Annotations[AnnotationPool]), told(s.Annotations[AnnotationPlaced])
	out.Terms = strings.TrimPrefix(out.sharing.Message, onTerms)
	out.External, out.Edition = ExternalIPs(s), edition(s)
	if foreign {
		return out
	}
	out.Request = request(s)
	if !whole {
		out.Request.Problems = append(out.Request.Problems, fmt.Sprintf("metadata.labels: too many; of key=value, separated by commas, %d bytes are read at most", maxLabels))
	}
	if out.Request.SharingKey == "" {
		return out
	}
	if n := len(s.Spec.Ports); n > maxSharedPorts {
		out.Request.SharingKey = ""
		out.Request.Problems = append(out.Request.Problems, fmt.Sprintf("spec.ports: %d ports, a Service that shares its address has %d at most", n, maxSharedPorts))
		return out
	}
	if out.TrafficPolicy == lb.TrafficLocal {
		out.PodSelector = short(labels.Set(s.Spec.Selector).String(), maxCompared)
	}
	for _, p := range s.Spec.Ports {
		out.Ports = append(out.Ports, lb.Port{Protocol: lb.ParseProtocol(string(p.Protocol)), Number: uint16(p.Port)})
	}
	return out
}

// onTerms is what the message of ConditionSharing says before the terms.
const onTerms = "shares what it holds on terms "

// sharing is the condition that records terms; none for none.
func sharing(terms string) Condition {
	if terms == "" {
		return Condition{}
	}
	return Condition{Status: metav1.ConditionTrue, Reason: "Recorded", Message: onTerms + terms}
}

// What is kept of one Service is bounded, whatever its author writes. Texts that
// are only compared are replaced by a digest where they are long; the rest has a
// greatest length, and what exceeds it is a problem of the request
// (docs/design/bounds.md).
const (
	// maxName is the greatest length of an object's name.
	maxName = 253
	// maxCompared is the length beyond which a text is replaced by its digest that is
	// compared and shown to nobody, and maxKey that of a sharing key.
	maxCompared = 64
	maxKey      = 128
	// maxList is the greatest length of a list of addresses: one of each family,
	// with room for blanks.
	maxList = 256
	// maxLabels is how many bytes of labels are read, as they are written in one line.
	maxLabels = 896
	// maxSharedPorts is how many ports a Service has at most that shares an address.
	maxSharedPorts = 100
	// maxProblems is how many problems of a list are told.
	maxProblems = 3
)

// short returns a text of at most n bytes, n >= 64, or the digest of a longer one:
// equal texts give equal ones, and different texts different ones.
func short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

// told is what is kept of an annotation of ours: a digest, 0 of none. Nothing rests on it;
// whoever finds another text with the same digest keeps us from telling him something.
func told(annotation string) uint64 {
	if annotation == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(annotation))
	return h.Sum64()
}

// readLabels returns the labels by which a Service is selected, and whether these
// are all: as many as there is room for, in the order of their keys.
func readLabels(all map[string]string) (read lb.Labels, whole bool) {
	room := maxLabels + len(",")
	kept := make(map[string]string, min(len(all), maxLabels))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if room -= len(k) + len(all[k]) + len("=,"); room < 0 {
			break
		}
		kept[k] = all[k]
	}
	return lb.LabelsOf(kept), len(kept) == len(all)
}

// assigned returns the addresses of an ingress list, and whether the list is
// just what we would write for them.
func assigned(ingress []corev1.LoadBalancerIngress) (addresses []netip.Addr, exact bool) {
	exact = true
	for _, in := range ingress {
		a, ok := address(in.IP)
		if !ok || slices.Contains(addresses, a) {
			exact = false
			continue
		}
		addresses = append(addresses, a)
		if in.Hostname != "" || in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP ||
			len(in.Ports) > 0 || in.IP != a.String() {
			exact = false
		}
	}
	return addresses, exact
}

// joinNames is the annotation for one name of each address, in their order.
func joinNames(names []string) string {
	if len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return n != names[0] }) {
		return names[0]
	}
	return strings.Join(names, ",")
}

// ask returns the first of the asking annotations, with the key that has it.
func ask(s *corev1.Service, what string) (value, key string) {
	for _, p := range prefixes {
		if v, ok := s.Annotations[p+what]; ok {
			return trimmed(v), p + what
		}
	}
	return "", ""
}

// trimmed returns a text without the blanks around it, and holds on to none of them.
func trimmed(text string) string {
	if short := strings.TrimSpace(text); len(short) < len(text) {
		return strings.Clone(short)
	}
	return text
}

// request reads what the owner of a Service asks for. What cannot be understood
// becomes a problem; the rest is still read.
func request(s *corev1.Service) lb.Request {
	var r lb.Request
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	list, key := ask(s, askAddresses)
	addresses, problems := parseAddresses(list)
	for _, p := range problems {
		problem("annotation %s: %s", key, p)
	}
	r.Addresses = addresses
	if spec := strings.TrimSpace(s.Spec.LoadBalancerIP); spec != "" {
		switch wanted, problems := parseAddresses(spec); {
		case len(problems) > 0:
			problem("spec.loadBalancerIP: %s", problems[0])
		case list == "":
			r.Addresses = wanted
		case slices.ContainsFunc(wanted, func(a netip.Addr) bool { return !slices.Contains(addresses, a) }):
			problem("spec.loadBalancerIP is %s but annotation %s is %s: make them equal or remove one", spec, key, Cut(list, 64))
		}
	}
	r.Pool, key = ask(s, askPool)
	if len(r.Pool) > maxName {
		problem("annotation %s: %d bytes, a pool's name has %d at most", key, len(r.Pool), maxName)
		r.Pool = ""
	}
	sharing, _ := ask(s, askSharing)
	r.SharingKey = short(sharing, maxKey)
	r.Reallocate = short(s.Annotations[AnnotationReallocate], maxToken)
	move := trimmed(s.Annotations[AnnotationMove])
	r.Move = short(move, maxToken)
	node, _, _ := strings.Cut(move, " ")
	r.MoveTo = short(node, maxName)
	return r
}

// parseAddresses reads a comma list of addresses, at most one per family. It tells
// the first problems only.
func parseAddresses(list string) (addresses []netip.Addr, problems []string) {
	if list == "" {
		return nil, nil
	}
	if len(list) > maxList {
		return nil, []string{fmt.Sprintf("%d bytes, at most %d: one address of each family", len(list), maxList)}
	}
	for part := range strings.SplitSeq(list, ",") {
		if len(problems) == maxProblems {
			break
		}
		part = strings.TrimSpace(part)
		a, err := netip.ParseAddr(part)
		if err != nil || a.Zone() != "" {
			problems = append(problems, fmt.Sprintf("%q is not an IP address", Cut(part, 64)))
			continue
		}
		a = a.Unmap()
		if slices.ContainsFunc(addresses, func(b netip.Addr) bool { return lb.FamilyOf(a) == lb.FamilyOf(b) }) {
			problems = append(problems, fmt.Sprintf("%s is a second %v address: at most one of each family", part, lb.FamilyOf(a)))
			continue
		}
		addresses = append(addresses, a)
	}
	return addresses, problems
}

func familyPolicy(p *corev1.IPFamilyPolicy) lb.FamilyPolicy {
	if p == nil {
		return lb.SingleStack
	}
	switch *p {
	case corev1.IPFamilyPolicyPreferDualStack:
		return lb.PreferDualStack
	case corev1.IPFamilyPolicyRequireDualStack:
		return lb.RequireDualStack
	default:
		return lb.SingleStack
	}
}

func trafficPolicy(p corev1.ServiceExternalTrafficPolicy) lb.TrafficPolicy {
	if p == corev1.ServiceExternalTrafficPolicyLocal {
		return lb.TrafficLocal
	}
	return lb.TrafficCluster
}
