package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A BFDProfile says how routers are watched by Bidirectional Forwarding
// Detection (RFC 5880).
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,shortName=bfd
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Receive",type=integer,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Transmit",type=integer,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Passive",type=boolean,JSONPath=`.spec.passiveMode`,priority=1
// +kubebuilder:printcolumn:name="Echo",type=boolean,JSONPath=`.spec.echoMode`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BFDProfile struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants. Empty: packets every 300 ms, three of which may be
	// lost.
	// +optional
	// +kubebuilder:default={}
	Spec BFDProfileSpec `json:"spec,omitempty"`
	// What Belfry found and did.
	// +optional
	Status BFDProfileStatus `json:"status,omitempty"`
}

// A BFDProfileList is a list of BFDProfile objects.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}

// A BFDProfileSpec holds the parameters of BFD sessions. Intervals are in
// milliseconds.
type BFDProfileSpec struct {
	// The shortest interval at which packets can be received, in milliseconds.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval int32 `json:"receiveInterval,omitempty"`
	// The interval at which packets are sent, in milliseconds.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval int32 `json:"transmitInterval,omitempty"`
	// After how many lost packets the router is taken to be gone.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=50
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`
	// Wait for the router's first packet before sending any.
	// +optional
	PassiveMode bool `json:"passiveMode,omitempty"`
	// The least TTL with which packets from a router more than one hop away are
	// accepted.
	// +optional
	// +kubebuilder:default=254
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL int32 `json:"minimumTtl,omitempty"`
	// How packets are authenticated (RFC 5880). Absent: not at all.
	// +optional
	Authentication *BFDAuthentication `json:"authentication,omitempty"`
	// Have the router's forwarding plane return packets to us; IPv4, one hop.
	// +optional
	EchoMode bool `json:"echoMode,omitempty"`
	// The interval at which such packets are sent, in milliseconds.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	EchoInterval int32 `json:"echoInterval,omitempty"`
}

// A BFDAuthentication is how BFD packets are authenticated. The router must do the
// same.
type BFDAuthentication struct {
	// MeticulousKeyedSHA1, or KeyedSHA1 for routers that do not have it.
	// +optional
	// +kubebuilder:default=MeticulousKeyedSHA1
	Type BFDAuthenticationType `json:"type,omitempty"`
	// The keys. The first signs what is sent; what any of them signs is accepted.
	// +required
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Keys []BFDKey `json:"keys"`
}

// A BFDAuthenticationType is a way to authenticate BFD packets.
// +kubebuilder:validation:Enum=KeyedSHA1;MeticulousKeyedSHA1
type BFDAuthenticationType string

// Ways to authenticate.
const (
	BFDKeyedSHA1           BFDAuthenticationType = "KeyedSHA1"
	BFDMeticulousKeyedSHA1 BFDAuthenticationType = "MeticulousKeyedSHA1"
)

// A BFDKey is a key that both ends have under the same ID.
type BFDKey struct {
	// The ID by which packets name the key.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	ID int32 `json:"id"`
	// The Secret with the key, of at most 20 bytes: of type
	// kubernetes.io/basic-auth, in Belfry's namespace, key password.
	// +required
	PasswordSecret SecretReference `json:"passwordSecret"`
}

// A BFDProfileStatus is what Belfry found and did about a profile.
type BFDProfileStatus struct {
	// Whether the object is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
