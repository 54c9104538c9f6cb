package objects

// AnnotationProbe on a SpeakerStatus has the speaker of that node ask its segment who
// answers for an address: see proof.ParseRequest. The status says what came of it.
const AnnotationProbe = "belfry.dev/probe"
