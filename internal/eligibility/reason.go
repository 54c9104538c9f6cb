package eligibility

import "github.com/belfrylb/belfry/internal/lb"

// A Reason says what keeps a node from announcing an address, or that nothing does.
// Reasons are in the order in which they are examined: of several that are in the way,
// the least is told, and the greater it is, the nearer the node came to announcing. Of
// several ways to announce, and of several nodes, the greatest is told.
type Reason uint8

// Reasons. The first group follows from configuration and endpoints, the second from
// who is there, the last from the election.
const (
	// NoNode: the cluster has no node at all.
	NoNode Reason = iota
	// NodeAddress: a Node has the address for itself.
	NodeAddress
	// NoAdvertisement: no advertisement selects the pool and every Service that uses
	// the address.
	NoAdvertisement
	// NoEndpoint: no Service that shares the address has an endpoint that takes
	// traffic.
	NoEndpoint
	// NoLocalEndpoint: externalTrafficPolicy is Local and the node has no endpoint
	// that takes traffic.
	NoLocalEndpoint
	// NodeNotSelected: advertisements select the address, but none of them this node.
	NodeNotSelected
	// NoPeer: the node has no BGPPeer that the advertisement is for.
	NoPeer
	// FamilyNotOffered: no such BGPPeer carries the address's family.
	FamilyNotOffered
	// NodeExcluded: the node has the label [lb.LabelExcludeLB].
	NodeExcluded
	// NetworkUnavailable: the node's condition of that name is True.
	NetworkUnavailable
	// Draining: the node carries a drain annotation or taint.
	Draining

	// Eligible nodes may announce the address.
	Eligible

	// NotAMember: no speaker on the node is heard.
	NotAMember
	// Joining: the node's speaker has not learned yet who announces what.
	Joining
	// NoUsableInterface: no interface of the node that an advertisement permits is
	// up, with carrier, and able to announce.
	NoUsableInterface
	// Leaving: the node's speaker is about to stop.
	Leaving
	// AddressConflict: the node is to announce the address, but has found that a
	// foreign station uses it and withholds it.
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

	// Reasons is how many there are.
	Reasons = iota
)

var reasons = [Reasons]string{
	"NoNode", "NodeAddress", "NoAdvertisement", "NoEndpoint", "NoLocalEndpoint",
	"NodeNotSelected", "NoPeer", "FamilyNotOffered", "NodeExcluded", "NetworkUnavailable", "Draining",
	"Eligible",
	"NotAMember", "Joining", "NoUsableInterface", "Leaving", "AddressConflict", "NoSession", "Unclaimed",
	"Lost", "Owner",
}

// String returns the reason as conditions and metrics spell it.
func (r Reason) String() string { return reasons[r] }

var sentences = [Reasons]string{
	"the cluster has no node",
	"the address is a node's own",
	"no advertisement selects the pool and every Service that uses the address",
	"no endpoint of the address's family is ready",
	"no endpoint of the family on this node, and externalTrafficPolicy is Local",
	"no advertisement that selects the address selects this node",
	"this node has no BGPPeer to advertise the address to",
	"no BGPPeer of this node carries the address's family",
	"the node is labeled " + lb.LabelExcludeLB,
	"the node's network is unavailable",
	"the node is draining",
	"the node may announce the address",
	"no live speaker is heard on the node",
	"the node's speaker is just starting",
	"no interface that may announce the address is up and able to",
	"the node's speaker is about to stop",
	"a foreign station uses the address",
	"no BGP session for the address is established",
	"could announce the address; does not say that it does",
	"could announce the address; another node does",
	"the node announces the address",
}

// Sentence says it of one node, in words on which a person can act.
func (r Reason) Sentence() string { return sentences[r] }

// among are the same of several nodes, after their number.
var among = [Reasons]string{
	"absent", "kept from a Node's own address", "not advertised", "without endpoints of the family",
	"without an endpoint of the address's family, which externalTrafficPolicy Local requires",
	"not selected by an advertisement",
	"without a BGPPeer to advertise it to", "without a BGPPeer that carries its family",
	"excluded by the label " + lb.LabelExcludeLB,
	"with condition NetworkUnavailable", "draining",
	"eligible",
	"without a live speaker", "whose speaker is just starting", "without a usable interface",
	"whose speaker is about to stop", "on whose segment a foreign station uses the address",
	"without an established BGP session for it", "that could, but do not say that they do",
	"that could, but another one does", "announcing",
}

// Among says it of several nodes, after their number.
func (r Reason) Among() string { return among[r] }
