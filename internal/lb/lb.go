// Package lb holds the nouns that every part of Belfry speaks in: Services,
// pools, advertisements, nodes, and the Snapshot that joins them.
//
// They are plain values. The edges (Kubernetes, netlink, gossip) translate into
// them, the pure packages decide over them, and nothing here knows where they
// came from. An address is always a [netip.Addr], never a string; a family is
// data, never a second code path.
package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A ServiceKey names a Service.
type ServiceKey struct{ Namespace, Name string }

// String returns "namespace/name".
func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// Compare orders keys by namespace, then name.
func (k ServiceKey) Compare(o ServiceKey) int {
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name))
}

// A Family is an IP version.
type Family uint8

// The two families; their values are the version numbers.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address. Addresses are kept unmapped
// (netip.Addr.Unmap), so an IPv4-mapped IPv6 address does not occur.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// Bits returns the length of an address of the family, 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// A FamilyPolicy says how many families a Service wants (spec.ipFamilyPolicy).
type FamilyPolicy uint8

// The policies of Kubernetes.
const (
	SingleStack FamilyPolicy = iota
	PreferDualStack
	RequireDualStack
)

// String returns the API's spelling.
func (p FamilyPolicy) String() string {
	return [...]string{"SingleStack", "PreferDualStack", "RequireDualStack"}[p]
}

// A TrafficPolicy is spec.externalTrafficPolicy.
type TrafficPolicy uint8

// The policies of Kubernetes.
const (
	TrafficCluster TrafficPolicy = iota
	TrafficLocal
)

// String returns the API's spelling.
func (p TrafficPolicy) String() string {
	return [...]string{"Cluster", "Local"}[p]
}

// A Protocol is a transport protocol.
type Protocol uint8

// The protocols of Kubernetes.
const (
	TCP Protocol = iota
	UDP
	SCTP
	// OtherProtocol stands for any that Kubernetes does not have yet.
	OtherProtocol
)

var protocols = [...]string{"TCP", "UDP", "SCTP", "other"}

// String returns the API's spelling.
func (p Protocol) String() string { return protocols[p] }

// ParseProtocol returns the protocol of that name; what the API leaves out is TCP.
func ParseProtocol(name string) Protocol {
	switch i := slices.Index(protocols[:], name); {
	case name == "":
		return TCP
	case i < 0:
		return OtherProtocol
	default:
		return Protocol(i)
	}
}

// A Port is one port of a Service. It takes four bytes, since a Service has many.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// Compare orders ports by protocol, then number.
func (p Port) Compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Protocol, o.Protocol), cmp.Compare(p.Number, o.Number))
}

// A Request is what a Service's owner asks of the allocator.
type Request struct {
	// Addresses are the requested addresses, at most one per family.
	Addresses []netip.Addr
	// Pool is the pool to take addresses from; empty leaves the choice to us.
	Pool string
	// SharingKey permits sharing an address with Services that have the same
	// key; empty permits none.
	SharingKey string
	// Reallocate is the token of belfry.dev/reallocate; a value other than the
	// one recorded in Service.Reallocated asks for a fresh address.
	Reallocate string
	// Move is the token of belfry.dev/move-to; a value other than the one recorded in
	// Service.Moved asks to have the addresses announced by the node MoveTo.
	Move, MoveTo string
	// Problems are the parts of the request that could not be understood, each
	// a sentence naming its field. A request with problems changes nothing.
	Problems []string
}

// A Service is a Kubernetes Service that asks us for an address, or that holds
// one although it no longer may (Released).
type Service struct {
	Key     ServiceKey
	UID     string
	Created time.Time
	Labels  Labels
	// NamespaceLabels are the labels of the Service's namespace.
	NamespaceLabels map[string]string
	// Families are the families of its cluster IPs, primary first. Empty when
	// the cluster IPs are not there yet.
	Families     []Family
	FamilyPolicy FamilyPolicy
	// Headless is set for clusterIP None.
	Headless bool
	// Ports are the Service's ports.
	Ports         []Port
	TrafficPolicy TrafficPolicy
	// PodSelector is the canonical text of spec.selector; equal texts select
	// the same Pods.
	PodSelector string
	Request     Request
	// Assigned is what the Service's status says it holds, primary first.
	Assigned []netip.Addr
	// AssignedPools names the pool that each address of Assigned came from, by our
	// own record in the Service's status; empty where there is none. Package origin
	// says what follows from it.
	AssignedPools []string
	// Withdrawn are those of Assigned that the status does not show: our record has
	// them, so it is another writer that took them away. The Service keeps them, and
	// they are not announced until they are shown again.
	Withdrawn []netip.Addr
	// Others is what else the status shows as ingress that is no address, such as a
	// hostname; cut where it is long.
	Others []string
	// Reallocated is the last Request.Reallocate that was honored, by our own
	// record in the Service's status.
	Reallocated string
	// Terms are those on which it holds what it shares, or would: a fingerprint of
	// its sharing key, ports and traffic policy as they were when we last decided,
	// by our own record in the Service's status; empty where there is none.
	Terms string
	// Placed names the node where each address of Assigned is placed for layer 2, by
	// our own record in the Service's status; empty where there is none.
	Placed []string
	// Moved is the last Request.Move that was answered, by our own record in the
	// Service's status.
	Moved Move
	// Announced is what its condition Announced said when it was read. What other
	// decisions depend on is not read anew when only this changes.
	Announced bool
	// Released is set when the Service is not ours any more (its type, class
	// or deletion says so) but still holds our address.
	Released bool
	// Foreign is set when another installation serves it: what it holds is taken,
	// and nothing else about it is our business.
	Foreign bool
	// Endpoints counts the usable endpoints by family and node.
	Endpoints Endpoints
}

// A Move is the answer to a Request.Move.
type Move struct {
	Token string
	// Refused is set when that node may not announce the addresses.
	Refused bool
}

// RecordOf returns the pool that an address in status came from, by our own record;
// empty where there is none.
func (s *Service) RecordOf(a netip.Addr) string {
	for i, p := range s.AssignedPools {
		if i < len(s.Assigned) && s.Assigned[i] == a {
			return p
		}
	}
	return ""
}

// Recorded reports whether our own record names an address that the Service holds.
func (s *Service) Recorded() bool {
	return slices.ContainsFunc(s.AssignedPools, func(pool string) bool { return pool != "" })
}

// PlaceOf returns the node where an address that the Service holds is placed for
// layer 2; empty for none.
func (s *Service) PlaceOf(a netip.Addr) string {
	for i, p := range s.Placed {
		if i < len(s.Assigned) && s.Assigned[i] == a {
			return p
		}
	}
	return ""
}

// Endpoints are the endpoints of one Service. kube-proxy gives a packet to an
// endpoint of the packet's own family, so each family is counted for itself.
type Endpoints struct{ IPv4, IPv6 NodeEndpoints }

// Of returns the endpoints that take traffic of a family.
func (e Endpoints) Of(f Family) NodeEndpoints {
	if f == IPv4 {
		return e.IPv4
	}
	return e.IPv6
}

// NodeEndpoints are the endpoints of one Service and family, counted by node.
// Endpoints without a node count under the empty name.
type NodeEndpoints map[string]EndpointCount

// An EndpointCount counts the endpoints of one Service and family on one node.
type EndpointCount struct {
	// Ready endpoints take traffic.
	Ready int
	// Terminating endpoints still serve while they terminate; they take
	// traffic only where no ready one is left.
	Terminating int
}

// A Serving says what endpoints can do with traffic that arrives. The greater, the
// better.
type Serving uint8

// Servings. Whoever attracts traffic prefers nodes where it is Steady, and takes
// those where it is Ending only while no other can: layer 2, where one node
// attracts all, by choosing among them (package announce); BGP, where each node
// speaks for itself, by telling routers that it is about to go (package bgp).
const (
	// Idle: there is no endpoint to take it.
	Idle Serving = iota
	// Ending: those that take it terminate.
	Ending
	// Steady: some that take it are ready.
	Steady
)

// String returns the serving in one word.
func (s Serving) String() string { return [...]string{"idle", "ending", "steady"}[s] }

// Serving returns what the endpoints that are counted can do.
func (c EndpointCount) Serving() Serving {
	switch {
	case c.Ready > 0:
		return Steady
	case c.Terminating > 0:
		return Ending
	default:
		return Idle
	}
}

// Serving returns what becomes of traffic that arrives at a node, as kube-proxy
// has it: with TrafficCluster any node's endpoints take it, with TrafficLocal the
// node's own.
func (e NodeEndpoints) Serving(policy TrafficPolicy, node string) Serving {
	if policy == TrafficLocal {
		return e[node].Serving()
	}
	best := Idle
	for _, c := range e {
		best = max(best, c.Serving())
	}
	return best
}

// A Node is a Kubernetes Node as far as announcing depends on it.
type Node struct {
	Name   string
	Labels map[string]string
	// Addresses are the node's own addresses; never handed out.
	Addresses []netip.Addr
	// PodNetworks are those that its Pods have their addresses from, as far as the
	// Node says so.
	PodNetworks []netip.Prefix
	// NotReady is set when the node's condition Ready is there and not True.
	// Liveness is not decided by it: it only keeps new addresses away.
	NotReady bool
	// NetworkUnavailable is the node's condition of that name.
	NetworkUnavailable bool
	// Detection is what its annotation belfry.dev/detection says of how its failure is
	// to be detected.
	Detection Detection
	// Drain is set when the annotation belfry.dev/drain is "true" or there is
	// the taint that the operator named as a drain trigger.
	Drain bool
}

// A Detection is how the failure of a node is detected.
type Detection uint8

// Ways of detection.
const (
	// DetectAsConfigured is as the speaker's flag says.
	DetectAsConfigured Detection = iota
	// DetectFast is by sessions on the segment between speakers, in about 0.13 s.
	DetectFast
	// DetectStandard is by gossip alone, in about 0.4 s.
	DetectStandard
)

var detections = [...]string{"", "fast", "standard"}

// String returns the word for it.
func (d Detection) String() string { return detections[d] }

// ParseDetection returns what a word says; the empty one is DetectAsConfigured.
func ParseDetection(s string) (d Detection, ok bool) {
	i := slices.Index(detections[:], s)
	return Detection(max(i, 0)), i >= 0
}

// An ExternalIP is an address that a Service of whatever type names in its externalIPs,
// so that kube-proxy gives it the traffic for it.
type ExternalIP struct {
	Address netip.Addr
	Service ServiceKey
}

// A ServiceNetwork is one that Services have their cluster IPs from.
type ServiceNetwork struct {
	// Name is that of the ServiceCIDR.
	Name     string
	Prefixes []netip.Prefix
}

// LabelExcludeLB is the well-known node label that keeps a node from
// announcing; its value does not matter.
const LabelExcludeLB = "node.kubernetes.io/exclude-from-external-load-balancers"

// A Snapshot is everything a decision may depend on, at one moment. Slices are
// sorted by name or key. Whoever holds one must not change it.
type Snapshot struct {
	// Configuration is a digest of the objects that pools, advertisements and peers
	// are made of, and of what their labels select: equal for all who have the same.
	Configuration    string
	Pools            []Pool
	L2Advertisements []L2Advertisement
	// BGPPeers and BGPAdvertisements are what BGP depends on.
	BGPPeers          []BGPPeer
	BGPAdvertisements []BGPAdvertisement
	Services          []Service
	Nodes             []Node
}
