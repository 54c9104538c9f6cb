package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A SpeakerStatus is what the speaker of one node sees and does. It has the
// node's name, belongs to the Node, and is written by that speaker alone.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,path=speakerstatuses,shortName=speaker;speakers
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="L2-Addresses",type=integer,JSONPath=`.status.layer2.total`
// +kubebuilder:printcolumn:name="BGP-Up",type=integer,JSONPath=`.status.bgp.up`
// +kubebuilder:printcolumn:name="BGP-Total",type=integer,JSONPath=`.status.bgp.total`
// +kubebuilder:printcolumn:name="Members",type=integer,JSONPath=`.status.membership.alive`
// +kubebuilder:printcolumn:name="Suspected",type=string,JSONPath=`.status.membership.suspected`,priority=1
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SpeakerStatus struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the speaker sees and does.
	// +optional
	Status SpeakerStatusStatus `json:"status,omitempty"`
}

// A SpeakerStatusList is a list of SpeakerStatus objects.
//
// +kubebuilder:object:root=true
type SpeakerStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpeakerStatus `json:"items"`
}

// A SpeakerStatusStatus is what a speaker sees and does. Its lists are bounded;
// the numbers beside them count everything.
type SpeakerStatusStatus struct {
	// The speaker's version.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`
	// How far the speaker is in its life.
	// +optional
	Phase SpeakerPhase `json:"phase,omitempty"`
	// What must be the same for the controller and for all speakers.
	// +optional
	Settings SpeakerSettings `json:"settings,omitempty"`
	// How the failure of this node is detected: "fast", by other speakers on its
	// segments, or "standard", by gossip alone.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	Detection string `json:"detection,omitempty"`
	// The configuration that the speaker acts on, as a digest of the pools,
	// advertisements and peers: equal for all who act on the same.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Configuration string `json:"configuration,omitempty"`
	// The node's interfaces, by name; without those of Pods.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Interfaces []InterfaceStatus `json:"interfaces,omitempty"`
	// The other speakers, as this one sees them.
	// +optional
	Membership MembershipStatus `json:"membership,omitempty"`
	// What the node does by layer 2.
	// +optional
	Layer2 Layer2Status `json:"layer2,omitempty"`
	// What the node does by BGP.
	// +optional
	BGP BGPStatus `json:"bgp,omitempty"`
	// Objects that this node could not apply, and why.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NotApplied []NotApplied `json:"notApplied,omitempty"`
	// GossipBlocked: True while gossip between this node and others is blocked, with the
	// nodes and protocols.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// What came of the last request by the annotation belfry.dev/probe.
	// +optional
	Probe *ProbeStatus `json:"probe,omitempty"`
}

// A ProbeStatus is who answers for an address on a segment of the node, and how soon.
type ProbeStatus struct {
	// The annotation that asked for it.
	// +kubebuilder:validation:MaxLength=128
	Request string `json:"request"`
	// When that was known.
	At metav1.MicroTime `json:"at"`
	// The interface on which the address was asked for.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`
	// Stations that answered.
	// +kubebuilder:validation:Minimum=0
	Total int32 `json:"total"`
	// The stations, the first to answer first; the node's own is not heard.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Answers []ProbeAnswer `json:"answers,omitempty"`
	// Why the address was not asked for.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Problem string `json:"problem,omitempty"`
}

// A ProbeAnswer is a station that answered.
type ProbeAnswer struct {
	// Its hardware address.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// Whose it is; absent for a stranger's.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// What answers.
	Voice Layer2Voice `json:"voice"`
	// How long after the first question it answered.
	// +kubebuilder:validation:Minimum=0
	AfterMicroseconds int32 `json:"afterMicroseconds"`
}

// A SpeakerPhase is how far a speaker is in its life.
// +kubebuilder:validation:Enum=Joining;Running;Leaving;Stopped
type SpeakerPhase string

// Phases of a speaker.
const (
	// SpeakerJoining: it has not learned yet who owns what.
	SpeakerJoining SpeakerPhase = "Joining"
	// SpeakerRunning: it is at work.
	SpeakerRunning SpeakerPhase = "Running"
	// SpeakerLeaving: it hands over what it owns.
	SpeakerLeaving SpeakerPhase = "Leaving"
	// SpeakerStopped: it has handed over, and does nothing any more.
	SpeakerStopped SpeakerPhase = "Stopped"
)

// SpeakerSettings are the flags of a speaker that the controller has, too, and that
// must agree.
type SpeakerSettings struct {
	// The loadBalancerClass of the Services that are announced; empty for those
	// without one.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	LoadBalancerClass string `json:"loadBalancerClass,omitempty"`
	// The key of the taint that drains a node.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	DrainTaint string `json:"drainTaint,omitempty"`
	// Whether the label node.kubernetes.io/exclude-from-external-load-balancers
	// is ignored.
	// +optional
	IgnoreExcludeLB bool `json:"ignoreExcludeLB,omitempty"`
	// The namespace of the installation.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// An InterfaceStatus describes an interface of a node.
type InterfaceStatus struct {
	// The interface's name.
	// +kubebuilder:validation:MaxLength=15
	Name string `json:"name"`
	// Its hardware address.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`
	// Whether the cable is in and the other end is there.
	Carrier bool `json:"carrier"`
	// The subnets of its addresses, link-local ones left out.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Subnets []string `json:"subnets,omitempty"`
	// Whether it can announce by layer 2, and an advertisement lets it.
	Usable bool `json:"usable"`
	// Why it does not.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Reason string `json:"reason,omitempty"`
}

// A MembershipStatus is one speaker's view of the others.
type MembershipStatus struct {
	// Speakers that are alive, this one included.
	// +kubebuilder:validation:Minimum=0
	Alive int32 `json:"alive"`
	// Nodes whose speakers are suspected to be gone.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Suspected []string `json:"suspected,omitempty"`
	// Nodes whose speakers are not heard. Whoever has none is among them; those
	// that were heard since this speaker started come first where they are too
	// many.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Unheard []string `json:"unheard,omitempty"`
	// Nodes to which gossip is blocked though their speakers are heard: a filter drops
	// it in between, or it has no way there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Blocked []BlockedPeer `json:"blocked,omitempty"`
	// The keys of gossip that this speaker uses; absent while it waits for one.
	// +optional
	Keys *GossipKeys `json:"keys,omitempty"`
}

// GossipKeys are the keys of gossip that a speaker uses, by ID: the first four bytes of
// the SHA-256 of the key, in hexadecimal. A key cannot be had from its ID.
type GossipKeys struct {
	// The key that it sends with.
	// +kubebuilder:validation:MaxLength=8
	Sends string `json:"sends"`
	// The keys that it accepts: more than one only while they change.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=8
	Accepts []string `json:"accepts"`
	// The version of the gossip Secret that it follows.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	SecretVersion string `json:"secretVersion,omitempty"`
}

// A BlockedPeer is a node to which gossip is blocked.
type BlockedPeer struct {
	// The node.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// The protocols that do not get through to the port of gossip, 7870.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=UDP;TCP
	Protocols []string `json:"protocols"`
}

// A Layer2Status is what a node does by layer 2.
//
// Lists of addresses are compact: an element has those of one block, a /24 of IPv4
// or a /112 of IPv6, as the first address and, after commas, the last number of
// others and of ranges: "198.51.100.1,3,10-19", "2001:db8::a,c-1f". A block with
// many gaps takes several elements.
type Layer2Status struct {
	// Addresses that the node answers for.
	// +kubebuilder:validation:Minimum=0
	Total int32 `json:"total"`
	// The addresses, all of them, by the interfaces on which they are answered for.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Answers []Layer2Answers `json:"answers,omitempty"`
	// Addresses that are to be announced from here as soon as it is known that
	// no other station uses them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=512
	Probing []string `json:"probing,omitempty"`
	// Addresses that are to be announced from here and are not, because a foreign station
	// uses them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Withheld []AddressUse `json:"withheld,omitempty"`
	// Other stations that were heard with addresses that the node answers for all
	// the same, latest last: foreign ones, or those of nodes whose speakers do not claim them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Conflicts []AddressConflict `json:"conflicts,omitempty"`
	// How the node came by the addresses that it answers for, latest last.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Transitions []Layer2Transition `json:"transitions,omitempty"`
	// Addresses of other nodes that their node answers for on the segment, and nobody
	// else does, by node: this node has asked, as a client would.
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=256
	Verified []Layer2Verified `json:"verified,omitempty"`
	// Addresses of other nodes to which the segment answers otherwise, and addresses of
	// this node that others answer for as well.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Faults []Layer2Fault `json:"faults,omitempty"`
}

// Layer2Verified are addresses that a node answers for, and no other station does.
type Layer2Verified struct {
	// The node.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// The addresses.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=512
	Addresses []string `json:"addresses"`
}

// A Layer2Fault is of addresses of a node to which the segment answers alike.
type Layer2Fault struct {
	// The node that is to answer.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// What is wrong.
	Reason Layer2FaultReason `json:"reason"`
	// When it was found out first.
	Since metav1.MicroTime `json:"since"`
	// Who answers; where this node is to answer, who does besides it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	AnsweredBy []Layer2Station `json:"answeredBy,omitempty"`
	// The addresses.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=512
	Addresses []string `json:"addresses"`
}

// A Layer2FaultReason says what is wrong with how a segment answers.
// +kubebuilder:validation:Enum=AnsweredTwice;Unanswered
type Layer2FaultReason string

// Reasons of a Layer2Fault.
const (
	// FaultAnsweredTwice: a station answers that is not the one that should.
	FaultAnsweredTwice Layer2FaultReason = "AnsweredTwice"
	// FaultUnanswered: no station answers.
	FaultUnanswered Layer2FaultReason = "Unanswered"
)

// A Layer2Station is a station that answers for an address.
type Layer2Station struct {
	// Its hardware address.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// The node whose it is; absent for a foreign station.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// What answers.
	Voice Layer2Voice `json:"voice"`
}

// A Layer2Voice says what answers for an address.
// +kubebuilder:validation:Enum=Speaker;Kernel;Unheard;Stranger
type Layer2Voice string

// Voices.
const (
	// VoiceSpeaker: the node's speaker claims the address.
	VoiceSpeaker Layer2Voice = "Speaker"
	// VoiceKernel: the node's speaker does not claim it, so its kernel answers.
	VoiceKernel Layer2Voice = "Kernel"
	// VoiceUnheard: the node's speaker or its kernel answers; gossip does not hear the
	// speaker.
	VoiceUnheard Layer2Voice = "Unheard"
	// VoiceStranger: the station is no Node's.
	VoiceStranger Layer2Voice = "Stranger"
)

// Layer2Answers are addresses that a node answers for on the same interfaces.
type Layer2Answers struct {
	// The interfaces.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Interfaces []string `json:"interfaces,omitempty"`
	// The addresses.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16384
	// +kubebuilder:validation:items:MaxLength=512
	Addresses []string `json:"addresses"`
}

// An AddressUse is a foreign station's use of an address that is therefore not announced.
type AddressUse struct {
	// The address.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// The foreign station's hardware address.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// By what it was heard: request, reply, announcement or probe.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Heard string `json:"heard,omitempty"`
	// When it was heard first.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
}

// An AddressConflict is another station's use of an address that is answered for.
type AddressConflict struct {
	// The address.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// The station's hardware address.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// The node whose station it is; absent for a foreign one.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// By what it was heard: request, reply or announcement.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Heard string `json:"heard,omitempty"`
	// When it was told.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
}

// A Layer2Transition is how a node came by addresses: all of them at once, from the
// same node, for the same reason.
type Layer2Transition struct {
	// When the node began to answer for them, by its own clock.
	Since metav1.MicroTime `json:"since"`
	// Why it does.
	Cause TransitionCause `json:"cause"`
	// The node that answered before; absent for none.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	From string `json:"from,omitempty"`
	// How many addresses they are.
	// +kubebuilder:validation:Minimum=1
	Count int32 `json:"count"`
	// The addresses, as many as fit.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=512
	Addresses []string `json:"addresses,omitempty"`
}

// A TransitionCause says why a node began to answer for an address.
// +kubebuilder:validation:Enum=Unowned;OwnerLost;Handover
type TransitionCause string

// Causes of a transition.
const (
	// TransitionUnowned: no node owned it, as far as is known.
	TransitionUnowned TransitionCause = "Unowned"
	// TransitionOwnerLost: the node that owned it is not heard any more.
	TransitionOwnerLost TransitionCause = "OwnerLost"
	// TransitionHandover: its owner gave it away.
	TransitionHandover TransitionCause = "Handover"
)

// A BGPStatus is what a node does by BGP.
type BGPStatus struct {
	// Sessions that are established.
	// +kubebuilder:validation:Minimum=0
	Up int32 `json:"up"`
	// Sessions that the node should hold.
	// +kubebuilder:validation:Minimum=0
	Total int32 `json:"total"`
	// The sessions.
	// +optional
	// +listType=map
	// +listMapKey=peer
	// +kubebuilder:validation:MaxItems=128
	Sessions []SessionStatus `json:"sessions,omitempty"`
}

// NotSent are the prefixes of a family that a router is not told in an established
// session.
type NotSent struct {
	// The family.
	Family AddressFamily `json:"family"`
	// How many they are.
	// +kubebuilder:validation:Minimum=1
	Prefixes int32 `json:"prefixes"`
	// Why they are not sent, in a sentence.
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message"`
}

// A SessionStatus describes a BGP session.
type SessionStatus struct {
	// The BGPPeer's name.
	// +kubebuilder:validation:MaxLength=253
	Peer string `json:"peer"`
	// The router's address.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// The state of the session.
	State SessionState `json:"state"`
	// Since when it is in this state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Why it was lost, or could not be had, last.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	LastError string `json:"lastError,omitempty"`
	// The same in a word.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Cause string `json:"cause,omitempty"`
	// The families whose routes it carries, while it is established.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	Families []AddressFamily `json:"families,omitempty"`
	// What both ends can do.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Capabilities []string `json:"capabilities,omitempty"`
	// Prefixes that the router was told.
	// +kubebuilder:validation:Minimum=0
	PrefixesSent int32 `json:"prefixesSent"`
	// Prefixes that the router should be told and is not, by family.
	// +optional
	// +listType=map
	// +listMapKey=family
	// +kubebuilder:validation:MaxItems=2
	NotSent []NotSent `json:"notSent,omitempty"`
	// The state of BFD; empty without it.
	// +optional
	BFD BFDState `json:"bfd,omitempty"`
	// Why BFD is not up.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	BFDError string `json:"bfdError,omitempty"`
}

// A SessionState is what there is to say about a BGP session. The states of
// RFC 4271 (section 8.2.2) between Idle and Established pass in milliseconds and
// come again with every attempt; they are one here.
// +kubebuilder:validation:Enum=Shutdown;Idle;Connect;Established
type SessionState string

// Session states.
const (
	// SessionShutdown: the peer is shut down by its configuration.
	SessionShutdown SessionState = "Shutdown"
	// SessionIdle: no attempt is made, because something is missing; the last
	// error says what.
	SessionIdle SessionState = "Idle"
	// SessionConnect: attempts are made, again and again.
	SessionConnect SessionState = "Connect"
	// SessionEstablished: routes are exchanged.
	SessionEstablished SessionState = "Established"
)

// A BFDState is the state of a BFD session (RFC 5880, section 6.2).
// +kubebuilder:validation:Enum=AdminDown;Down;Init;Up
type BFDState string

// BFD states.
const (
	BFDAdminDown BFDState = "AdminDown"
	BFDDown      BFDState = "Down"
	BFDInit      BFDState = "Init"
	BFDUp        BFDState = "Up"
)

// A NotApplied is an object that a node could not apply.
type NotApplied struct {
	// The object's kind.
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// The object's name.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Why, in a word: a reason of the condition Accepted, NoUsableInterface or SetAside.
	Reason Reason `json:"reason"`
	// Why, in a sentence.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
}
