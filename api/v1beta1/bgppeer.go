package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A BGPPeer is a router to hold a session with, from every node or from some.
// What the router advertises is never installed or passed on.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,shortName=peer;peers
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="Up",type=integer,JSONPath=`.status.sessionsUp`
// +kubebuilder:printcolumn:name="Total",type=integer,JSONPath=`.status.sessionsTotal`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="My-ASN",type=integer,JSONPath=`.spec.myASN`,priority=1
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.peerPort`,priority=1
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.spec.bfdProfile`,priority=1
// +kubebuilder:printcolumn:name="Shutdown",type=boolean,JSONPath=`.spec.shutdown`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants.
	// +required

	Spec BGPPeerSpec `json:"spec"`
	// What Belfry found and did.
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// A BGPPeerList is a list of BGPPeer objects.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

// A Role is our part in the relation with a router's autonomous system (RFC 9234).
//
// +kubebuilder:validation:Enum=provider;rs;rs-client;customer;peer
type Role string

// Roles.
const (
	RoleProvider Role = "provider"
	RoleRS       Role = "rs"
	RoleRSClient Role = "rs-client"
	RoleCustomer Role = "customer"
	RolePeer     Role = "peer"
)

// A BGPPeerSpec describes the router and the session.
//
// +kubebuilder:validation:XValidation:rule=`has(self.peerASN) != has(self.dynamicASN)`,message=`exactly one of peerASN and dynamicASN must be set`
// +kubebuilder:validation:XValidation:rule=`has(self.peerAddress) != has(self.interface)`,message=`exactly one of peerAddress and interface must be set`
// +kubebuilder:validation:XValidation:rule=`!has(self.ttlSecurity) || !has(self.ebgpMultiHop) || !self.ebgpMultiHop`,message=`only one of ttlSecurity and ebgpMultiHop may be set`,fieldPath=`.ttlSecurity`
// +kubebuilder:validation:XValidation:rule=`!has(self.interface) || !has(self.ebgpMultiHop) || !self.ebgpMultiHop`,message=`ebgpMultiHop needs peerAddress: a router found on an interface is one hop away`,fieldPath=`.ebgpMultiHop`
// +kubebuilder:validation:XValidation:rule=`!has(self.sourceAddress) || !has(self.interface)`,message=`sourceAddress needs peerAddress: on an interface the session runs between link-local addresses`,fieldPath=`.sourceAddress`
// +kubebuilder:validation:XValidation:rule=`!has(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.sourceAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()`,message=`sourceAddress must be of the same family as peerAddress`,fieldPath=`.sourceAddress`
// +kubebuilder:validation:XValidation:rule=`!has(self.keepaliveTime) || !has(self.holdTime) || !self.keepaliveTime.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || !self.holdTime.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self.keepaliveTime) + duration(self.keepaliveTime) + duration(self.keepaliveTime) <= duration(self.holdTime)`,message=`keepaliveTime must be at most a third of holdTime, so that a message that is lost does not end the session`,fieldPath=`.keepaliveTime`
// +kubebuilder:validation:XValidation:rule=`!has(self.role) || !(has(self.dynamicASN) && self.dynamicASN == 'internal') && !(has(self.peerASN) && self.peerASN == (has(self.localASN) ? self.localASN : self.myASN))`,message=`role needs a router of another autonomous system`,fieldPath=`.role`
// +kubebuilder:validation:XValidation:rule=`!has(self.requireRole) || !self.requireRole || has(self.role)`,message=`requireRole needs role`,fieldPath=`.requireRole`
type BGPPeerSpec struct {
	// Our autonomous system.
	// +required
	MyASN ASN `json:"myASN"`
	// The router's autonomous system.
	// +optional
	PeerASN ASN `json:"peerASN,omitempty"`
	// Instead of peerASN: any router of our own system (internal), or of any
	// other (external).
	// +optional
	DynamicASN DynamicASN `json:"dynamicASN,omitempty"`
	// The autonomous system to show to this router instead of myASN, which then
	// follows it in the AS path, unless that is the router's own: a router refuses a
	// route with its own number in the path.
	// +optional
	LocalASN ASN `json:"localASN,omitempty"`
	// What we are to the router's autonomous system: its provider or its customer, its
	// route server (rs) or a client of it (rs-client), or its peer (RFC 9234). Both ends
	// must agree; routes to customers, peers and route server clients are marked so that
	// they go no further than to customers.
	// +optional
	Role Role `json:"role,omitempty"`
	// Refuse a router that does not tell its role (the strict mode of RFC 9234).
	// Otherwise such a router is taken to have the role that fits.
	// +optional
	RequireRole bool `json:"requireRole,omitempty"`
	// The router's address.
	// +optional
	PeerAddress PeerAddress `json:"peerAddress,omitempty"`
	// Instead of peerAddress: the interface on which the router is found by its
	// router advertisements; the session runs over IPv6 link-local addresses.
	// +optional
	Interface InterfaceName `json:"interface,omitempty"`
	// The router's TCP port.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`
	// The address to connect from. Absent: the kernel chooses.
	// +optional
	SourceAddress PeerAddress `json:"sourceAddress,omitempty"`
	// The BGP identifier. Absent: derived from the node.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule=`isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()`,message=`routerID is written like an IPv4 address and is not 0.0.0.0`
	RouterID string `json:"routerID,omitempty"`
	// After how long without a message the session is down: whole seconds, at
	// least 3s, or 0s for never.
	// +optional
	// +kubebuilder:default="90s"
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self) == duration('0s') || duration(self) >= duration('3s') && duration(self) <= duration('65535s')`,message=`holdTime must be 0s or from 3s to 65535s`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('[.]|ms')`,message=`holdTime must be written in whole seconds`
	HoldTime Duration `json:"holdTime,omitempty"`
	// How often a message is sent at the latest: whole seconds, at most a third of
	// holdTime. Absent: a third of the hold time that was negotiated.
	// +optional
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self) >= duration('1s') && duration(self) <= duration('21845s')`,message=`keepaliveTime must be from 1s to 21845s`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('[.]|ms')`,message=`keepaliveTime must be written in whole seconds`
	KeepaliveTime Duration `json:"keepaliveTime,omitempty"`
	// The longest pause between two attempts to connect.
	// +optional
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self) >= duration('1s') && duration(self) <= duration('65535s')`,message=`connectTime must be from 1s to 65535s`
	ConnectTime Duration `json:"connectTime,omitempty"`
	// Whether an external router may be more than one hop away.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`
	// Accept packets only from routers at most so many hops away, by their TTL
	// (RFC 5082).
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurity int32 `json:"ttlSecurity,omitempty"`
	// The Secret with the password that signs the session (RFC 2385): of type
	// kubernetes.io/basic-auth, in Belfry's namespace, key password.
	// +optional
	PasswordSecret *SecretReference `json:"passwordSecret,omitempty"`
	// The BFDProfile by which the router is watched. Absent: no BFD.
	// +optional
	BFDProfile ObjectName `json:"bfdProfile,omitempty"`
	// What the router does with our routes when the session is lost.
	// +optional
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`
	// The address families of the session. Empty: the family of peerAddress, and
	// both for an interface.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	AddressFamilies []AddressFamily `json:"addressFamilies,omitempty"`
	// The VRF device through which to reach the router.
	// +optional
	VRF InterfaceName `json:"vrf,omitempty"`
	// Selectors of nodes by label, any of which may match; other nodes hold no
	// session with the router. Empty: every node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`
	// Keep the session down.
	// +optional
	Shutdown bool `json:"shutdown,omitempty"`
	// What the router is told when the session is shut down (RFC 9003): at most
	// 255 bytes.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule=`size(bytes(self)) <= 255`,message=`shutdownMessage has at most 255 bytes`
	ShutdownMessage string `json:"shutdownMessage,omitempty"`
	// How many prefixes of the router's are remembered, only to be counted.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaximumPrefixes int32 `json:"maximumPrefixes,omitempty"`
}

// An ASN is the number of an autonomous system. 0, 23456, 65535 and 4294967295
// are reserved (RFC 7607, RFC 6793, RFC 7300).
// +kubebuilder:validation:Minimum=1
// +kubebuilder:validation:Maximum=4294967294
// +kubebuilder:validation:XValidation:rule=`self != 23456 && self != 65535`,message=`23456 and 65535 are reserved and cannot be the number of an autonomous system`
type ASN int64

// A DynamicASN admits routers by their relation to our autonomous system.
// +kubebuilder:validation:Enum=internal;external
type DynamicASN string

// Relations to our autonomous system.
const (
	DynamicASNInternal DynamicASN = "internal"
	DynamicASNExternal DynamicASN = "external"
)

// A PeerAddress is the address of an end of a session.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=45
// +kubebuilder:validation:XValidation:rule=`isIP(self)`,message=`want an IPv4 or IPv6 address, without zone and not IPv4-mapped`
// +kubebuilder:validation:XValidation:rule=`!isIP(self) || !ip(self).isUnspecified() && !cidr('224.0.0.0/4').containsIP(self) && !cidr('ff00::/8').containsIP(self)`,message=`must not be the unspecified or a multicast address`
// +kubebuilder:validation:XValidation:rule=`!isIP(self) || !cidr('fe80::/10').containsIP(self)`,message=`must not be link-local: name the interface instead`
type PeerAddress string

// An InterfaceName is the name of a network device.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule=`!self.matches('[\\s/:[:cntrl:]]') && self != '.' && self != '..'`,message=`a device name has no blanks, '/' or ':'`
type InterfaceName string

// A SecretReference names a Secret in Belfry's namespace.
type SecretReference struct {
	// The Secret's name.
	// +required
	Name ObjectName `json:"name"`
}

// An AddressFamily is an IP version.
// +kubebuilder:validation:Enum=IPv4;IPv6
type AddressFamily string

// The address families.
const (
	IPv4 AddressFamily = "IPv4"
	IPv6 AddressFamily = "IPv6"
)

// A GracefulRestart asks the router to keep our routes for a while when the
// session is lost without a goodbye (RFC 4724).
// +kubebuilder:validation:XValidation:rule=`!has(self.longLived) || !self.longLived.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self.longLived) == duration('0s') || self.enabled`,message=`longLived needs enabled`,fieldPath=`.longLived`
type GracefulRestart struct {
	// Whether to ask for it.
	// +required
	Enabled bool `json:"enabled"`
	// How long the router keeps the routes: whole seconds.
	// +optional
	// +kubebuilder:default="120s"
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self) >= duration('1s') && duration(self) <= duration('4095s')`,message=`restartTime must be from 1s to 4095s`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('[.]|ms')`,message=`restartTime must be written in whole seconds`
	RestartTime Duration `json:"restartTime,omitempty"`
	// How much longer it keeps them as a last resort (RFC 9494): whole seconds.
	// 0s: not at all.
	// +optional
	// +kubebuilder:default="0s"
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$') || duration(self) <= duration('16777215s')`,message=`longLived must be at most 16777215s`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('[.]|ms')`,message=`longLived must be written in whole seconds`
	LongLived Duration `json:"longLived,omitempty"`
}

// A BGPPeerStatus is what Belfry found and did about a router.
type BGPPeerStatus struct {
	// Whether the object is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Sessions that are established, over all nodes.
	// +optional
	// +kubebuilder:validation:Minimum=0
	SessionsUp int32 `json:"sessionsUp,omitempty"`
	// Nodes that should hold a session.
	// +optional
	// +kubebuilder:validation:Minimum=0
	SessionsTotal int32 `json:"sessionsTotal,omitempty"`
}
