package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// An L2Advertisement makes nodes answer for the addresses of pools by ARP and
// NDP, one node per address.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,shortName=l2adv;l2advs
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Failback",type=string,JSONPath=`.spec.failback`,priority=1
// +kubebuilder:printcolumn:name="Conflict",type=string,JSONPath=`.spec.conflictPolicy`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants. Empty: every address, on every node, on every
	// usable interface.
	// +optional
	// +kubebuilder:default={}
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// What Belfry found and did.
	// +optional
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// An L2AdvertisementList is a list of L2Advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}

// An L2AdvertisementSpec says which addresses are answered for, by which nodes,
// on which interfaces.
type L2AdvertisementSpec struct {
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
	// Selectors of nodes by label, any of which may match; other nodes never
	// answer. Empty: every node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`
	// Nodes that are preferred when addresses are placed. The weights of all
	// the preferences that match a node are added up.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	PreferredNodes []NodePreference `json:"preferredNodes,omitempty"`
	// Interfaces on which to answer: names, or patterns with '*', '?' and
	// '[...]'. Empty: every usable interface.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Interfaces []InterfacePattern `json:"interfaces,omitempty"`
	// Interfaces on which never to answer. The default names those that
	// container networks and runtimes create; an empty list excludes none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:default={"docker*","cbr*","veth*","cali*","cni*","flannel*","lxc*","tunl*","kube-ipvs*","virbr*","nodelocaldns*"}
	ExcludeInterfaces []InterfacePattern `json:"excludeInterfaces"`
	// Whether an address returns to its preferred node once that is back.
	// +optional
	// +kubebuilder:default=Never
	Failback Failback `json:"failback,omitempty"`
	// What to do when a foreign station on the segment uses one of our addresses.
	// +optional
	// +kubebuilder:default=Withhold
	ConflictPolicy ConflictPolicy `json:"conflictPolicy,omitempty"`
}

// A NodePreference adds weight to the nodes that it matches.
type NodePreference struct {
	// How much the nodes are preferred, 1 to 100.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// The nodes, by label.
	// +required
	Preference LabelSelector `json:"preference"`
}

// An InterfacePattern is the name of a network interface, or a pattern in which
// '*' stands for any text, '?' for any character, and '[...]' for one of a set.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="!self.matches('[\\\\s/:\\\\\\\\[:cntrl:]]')",message="an interface has no blanks, '/', ':' or '\\' in its name"
// +kubebuilder:validation:XValidation:rule="self.matches('[*?\\\\[\\\\]]') || size(self) <= 15",message="an interface name has at most 15 characters"
// +kubebuilder:validation:XValidation:rule="self.matches('^([^\\\\[\\\\]]|\\\\[\\\\^?([^-\\\\[\\\\]^](-[^-\\\\[\\\\]^])?)+\\\\])*$')",message="an interface pattern has sets in brackets such as eth[0-3], and every bracket is closed"
type InterfacePattern string

// A Failback says whether an address returns to its preferred node by itself.
// +kubebuilder:validation:Enum=Never;Immediate
type Failback string

// Failback modes.
const (
	// FailbackNever leaves an address where it is.
	FailbackNever Failback = "Never"
	// FailbackImmediate moves it as soon as the preferred node can answer.
	FailbackImmediate Failback = "Immediate"
)

// A ConflictPolicy says what to do when a foreign station uses one of our addresses.
// +kubebuilder:validation:Enum=Withhold;Defend;Ignore
type ConflictPolicy string

// Conflict policies.
const (
	// ConflictWithhold does not start to answer for an address that a foreign station
	// uses already.
	ConflictWithhold ConflictPolicy = "Withhold"
	// ConflictDefend answers, and claims the address whenever the foreign station does.
	ConflictDefend ConflictPolicy = "Defend"
	// ConflictIgnore answers, and only reports.
	ConflictIgnore ConflictPolicy = "Ignore"
)

// An L2AdvertisementStatus is what Belfry found and did about an advertisement.
type L2AdvertisementStatus struct {
	// Whether the advertisement is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// The last request to share the addresses out evenly among the nodes, made by
	// a new value of the annotation belfry.dev/rebalance, and what is left of it.
	// +optional
	Rebalance *RebalanceStatus `json:"rebalance,omitempty"`
}

// A RebalanceStatus is how far a request to rebalance has been carried out.
type RebalanceStatus struct {
	// The value of the annotation, cut off at 64 characters.
	// +required
	// +kubebuilder:validation:MaxLength=256
	Token string `json:"token"`
	// How many addresses may still be moved. 0: the request is done.
	// +required
	// +kubebuilder:validation:Minimum=0
	Remaining int32 `json:"remaining"`
}
