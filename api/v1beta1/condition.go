package v1beta1

// ConditionAccepted is the type of the condition that says whether Belfry acts
// on an object exactly as written. False never means that the object is ignored:
// what can be served is served, and the message says what is not.
const ConditionAccepted = "Accepted"

// A Reason is the reason of a condition of an object of this group.
type Reason string

// Reasons of the condition Accepted.
const (
	// ReasonAccepted: the object is acted on as written.
	ReasonAccepted Reason = "Accepted"
	// ReasonUnknownName: the object is acted on as written (the status is
	// True), but names an object that does not exist, at least not yet.
	ReasonUnknownName Reason = "UnknownName"
	// ReasonInvalid: a part of the object cannot be understood. It was stored
	// before the API server knew the rule that would have refused it.
	ReasonInvalid Reason = "Invalid"
	// ReasonDeleting: the pool is being deleted, and Services still hold addresses of it.
	ReasonDeleting Reason = "Deleting"
	// ReasonOverlaps: an older pool, or the cluster itself, has some of the pool's
	// addresses.
	ReasonOverlaps Reason = "Overlaps"
	// ReasonUnsupported: a field asks for something that this version, this
	// kernel or this protocol cannot do.
	ReasonUnsupported Reason = "Unsupported"
	// ReasonConflict: the object contradicts an older one, and does not apply.
	ReasonConflict Reason = "Conflict"
	// ReasonDuplicateName: a name is defined twice; neither definition counts.
	ReasonDuplicateName Reason = "DuplicateName"
	// ReasonSecretMissing: the Secret with the password does not exist.
	ReasonSecretMissing Reason = "SecretMissing"
	// ReasonSecretInvalid: the Secret has the wrong type, or no usable password.
	ReasonSecretInvalid Reason = "SecretInvalid"
)

// ConditionRoutesSent is the type of the condition of a BGPPeer that says whether
// the routes of each family that the peer asks for are sent in the sessions that
// are established. It is there once some were not.
const ConditionRoutesSent = "RoutesSent"

// Reasons of [ConditionRoutesSent].
const (
	ReasonSent    = "Sent"
	ReasonWaiting = "Waiting"
)

// ConditionGossipBlocked is the type of the condition of a SpeakerStatus that says
// whether gossip is blocked between its node and others whose speakers are there.
const ConditionGossipBlocked = "GossipBlocked"

// Reasons of [ConditionGossipBlocked].
const (
	ReasonPortBlocked = "PortBlocked"
	ReasonNotBlocked  = "NotBlocked"
)
