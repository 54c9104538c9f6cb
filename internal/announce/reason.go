package announce

// A Reason says why a node does not announce an address, or that it may. The
// order is that in which they are examined, so a greater reason means that the
// node came nearer to announcing it.
type Reason uint8

// Reasons. The first group follows from configuration, the second from
// membership, the last from the election.
const (
	// Eligible nodes may announce the address.
	Eligible Reason = iota

	// NoNode: the cluster has no node at all.
	NoNode
	// NodeAddress: a Node has the address for itself.
	NodeAddress
	// NoAdvertisement: no advertisement selects the address's pool and every
	// Service that shares the address.
	NoAdvertisement
	// NoEndpoint: no Service that shares the address has an endpoint that takes
	// traffic.
	NoEndpoint
	// NoLocalEndpoint: externalTrafficPolicy is Local and the node has no
	// endpoint that takes traffic.
	NoLocalEndpoint
	// NodeNotSelected: advertisements select the address, but none of them this
	// node.
	NodeNotSelected
	// NoPeer: the node has no BGPPeer that the advertisement is for.
	NoPeer
	// FamilyNotOffered: no such BGPPeer carries the address's family.
	FamilyNotOffered
	// NodeExcluded: the node is labeled
	// node.kubernetes.io/exclude-from-external-load-balancers.
	NodeExcluded
	// NetworkUnavailable: the node's condition of that name is True.
	NetworkUnavailable
	// Draining: the node carries a drain annotation or taint.
	Draining

	// NotAMember: no speaker on the node is heard.
	NotAMember
	// Joining: the node's speaker has not learned yet who announces what.
	Joining
	// NoUsableInterface: no interface of the node that an advertisement permits
	// is up, with carrier, and able to announce.
	NoUsableInterface
	// Leaving: the node's speaker is about to stop.
	Leaving
	// AddressConflict: the node is to announce the address, but has found that a
	// stranger uses it and withholds it.
	AddressConflict
	// NoSession: no BGP session that the node is to advertise the address by is
	// established and has a next hop for it.
	NoSession
	// Unclaimed: a node could announce the address, but its speaker does not say
	// that it does.
	Unclaimed

	// Lost: the node could announce the address, another one does.
	Lost
	// Owner: the node announces the address.
	Owner
)

var reasons = [...]string{
	"Eligible",
	"NoNode", "NodeAddress", "NoAdvertisement", "NoEndpoint", "NoLocalEndpoint",
	"NodeNotSelected", "NoPeer", "FamilyNotOffered", "NodeExcluded", "NetworkUnavailable", "Draining",
	"NotAMember", "Joining", "NoUsableInterface", "Leaving", "AddressConflict", "NoSession", "Unclaimed",
	"Lost", "Owner",
}

// String returns the reason as a condition and a metric spell it.
func (r Reason) String() string { return reasons[r] }

// sentences say it of several nodes, after their number.
var sentences = [...]string{
	"eligible",
	"absent", "kept from a Node's own address", "not advertised", "without endpoints of the family",
	"without an endpoint of the address's family, which externalTrafficPolicy Local requires",
	"not selected by an advertisement",
	"without a BGPPeer to advertise it to", "without a BGPPeer that carries its family",
	"excluded by the label node.kubernetes.io/exclude-from-external-load-balancers",
	"with condition NetworkUnavailable", "draining",
	"without a live speaker", "whose speaker is just starting", "without a usable interface",
	"whose speaker is about to stop", "on whose segment a stranger uses the address",
	"without an established BGP session for it", "that could, but do not say that they do",
	"outdone by the owner", "announcing",
}
