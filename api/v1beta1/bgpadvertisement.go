package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A BGPAdvertisement makes nodes advertise the addresses of pools to routers.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,shortName=bgpadv;bgpadvs
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Local-Pref",type=integer,JSONPath=`.spec.localPref`,priority=1
// +kubebuilder:printcolumn:name="MED",type=integer,JSONPath=`.spec.med`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants. Empty: every address, from every node, to every
	// router.
	// +optional
	// +kubebuilder:default={}
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// What Belfry found and did.
	// +optional
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// A BGPAdvertisementList is a list of BGPAdvertisement objects.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}

// A BGPAdvertisementSpec says which addresses are advertised, by which nodes, to
// which routers, with which attributes.
type BGPAdvertisementSpec struct {
	// Pools whose addresses are advertised, besides those that a pool selector
	// matches. Both empty: every pool.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	IPAddressPools []ObjectName `json:"ipAddressPools,omitempty"`
	// Selectors of pools by label, any of which may match.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	IPAddressPoolSelectors []LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	// Selectors of Services by label, any of which may match. Empty: every
	// Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
	// Selectors of nodes by label, any of which may match; other nodes do not
	// advertise. Empty: every node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`
	// BGPPeers to advertise to. Empty: every one.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Peers []ObjectName `json:"peers,omitempty"`
	// The length of the IPv4 prefixes to advertise: the addresses within one are
	// advertised together, as long as any of them is in use.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	AggregationLength int32 `json:"aggregationLength,omitempty"`
	// The same for IPv6.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 int32 `json:"aggregationLengthV6,omitempty"`
	// The local preference, told to routers of our own autonomous system.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`
	// Communities, as a:b, large:a:b:c, a well-known name (no-export,
	// no-advertise, no-peer, graceful-shutdown, blackhole) or a name from a
	// Community object.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Communities []CommunityOrName `json:"communities,omitempty"`
	// The multi-exit discriminator.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`
	// How many times more our autonomous system stands in the AS path.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`
	// Tell routers how many ready endpoints the node has, by the link bandwidth
	// community, so that they share traffic in proportion.
	// +optional
	WeightByEndpoints bool `json:"weightByEndpoints,omitempty"`
}

// A CommunityOrName is a community or the name of one: a name begins with a
// letter.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule=`self.matches('^(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})$') || self.matches('^large:(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$') || self.matches('^[A-Za-z]([-A-Za-z0-9._]*[A-Za-z0-9])?$')`,message=`want a:b, large:a:b:c or a name`
// +kubebuilder:validation:XValidation:rule=`(!self.matches('^(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})$') || self.split(':').all(n, int(n) <= 65535)) && (!self.matches('^large:(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$') || self.substring(6).split(':').all(n, int(n) <= 4294967295))`,message=`the numbers of a:b are at most 65535, those of large:a:b:c at most 4294967295`
type CommunityOrName string

// A BGPAdvertisementStatus is what Belfry found and did about an advertisement.
type BGPAdvertisementStatus struct {
	// Whether the object is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
