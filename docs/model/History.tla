------------------------------ MODULE History ------------------------------
(* A store that returns to an earlier moment, once or twice, between an event *)
(* store, its relay, the topic, a projector whose read models do not go back, *)
(* another consumer that follows the markers, and `dopamine recover`.         *)
(* Relay.tla has what happens within one history. One partition is enough.    *)
EXTENDS Integers, Sequences, FiniteSets, TLC
CONSTANTS None, MaxEvents, MaxRestores, MaxTopic,
  RelayCompares,     \* a relay publishes nothing if the store lacks a record of the topic
  ReadCompares,      \* a relay reads the next event together with the last one it published
  ProjectorCompares, \* a projector applies no record that the store does not have
  EarlierSkipped,    \* a record of an earlier incarnation that the store lacks is skipped
  NumberAboveAll,    \* an incarnation's number is above those that topic and read models know
  MarkerFirst        \* the marker is in the topic before the relay publishes again
VARIABLES s,      \* ids of the store's events, by position
  inc, place,     \* incarnation and relay's checkpoint: they go back with the store
  topic, lead, fly,  \* records; whether a relay leads; a record that is on its way
  mem,               \* the leader's memory: the last event that it published, and its incarnation
  rows, off, rinc,   \* read models: ids applied, next offset, incarnation
  nid, bak, nr, lost \* next id; a backup; restores so far; whole histories that were lost
vars == <<s, inc, place, topic, lead, fly, mem, rows, off, rinc, nid, bak, nr, lost>>
Prefix(a, b) == Len(a) <= Len(b) /\ SubSeq(b, 1, Len(a)) = a
Max(S) == CHOOSE x \in S : \A y \in S : y <= x
Min(S) == CHOOSE x \in S : \A y \in S : x <= y
HasEv(r) == r.pos <= Len(s) /\ s[r.pos] = r.id
Ev(i) == topic[i].id # None
\* what a marker that the store knows has superseded does not count
Counts(i) == Ev(i) /\ ~ \E j \in DOMAIN topic : ~Ev(j) /\ topic[j].inc <= inc /\ topic[j].inc > topic[i].inc /\ topic[i].pos > topic[j].pos
Known == {topic[i].inc : i \in DOMAIN topic} \cup {rinc, inc}
Contradicts == \E i \in DOMAIN topic : (Counts(i) /\ ~HasEv(topic[i])) \/ topic[i].inc > inc

Init == /\ s = <<>> /\ inc = 1 /\ place = 0 /\ topic = <<>> /\ lead = FALSE /\ fly = None /\ mem = None
        /\ rows = <<>> /\ off = 0 /\ rinc = 1 /\ nid = 1 /\ bak = None /\ nr = 0 /\ lost = {}
Add == /\ nid <= MaxEvents /\ s' = Append(s, nid) /\ nid' = nid + 1
       /\ UNCHANGED <<inc, place, topic, lead, fly, mem, rows, off, rinc, bak, nr, lost>>
Backup == /\ bak = None /\ nr < MaxRestores /\ bak' = [s |-> s, inc |-> inc, place |-> place]
          /\ UNCHANGED <<s, inc, place, topic, lead, fly, mem, rows, off, rinc, nid, nr, lost>>
\* It takes longer than a publish, so nothing is on its way afterwards, and longer than a new leader needs
\* to publish again what the one before it did not save. A leader may not notice it.
Restore == /\ bak # None /\ (lead => \A i \in DOMAIN topic : topic[i].pos <= mem.pos) /\ s' = bak.s /\ inc' = bak.inc /\ place' = bak.place /\ bak' = None /\ nr' = nr + 1
           /\ fly' = None /\ lost' = lost \cup {s} /\ UNCHANGED <<topic, lead, mem, rows, off, rinc, nid>>
IdAt(p) == IF p = 0 THEN 0 ELSE IF p > Len(s) THEN None ELSE s[p]
Lead == /\ ~lead /\ (RelayCompares => ~Contradicts) /\ lead' = TRUE /\ mem' = [pos |-> place, id |-> IdAt(place), inc |-> inc]
        /\ UNCHANGED <<s, inc, place, topic, fly, rows, off, rinc, nid, bak, nr, lost>>
Ends == /\ lead /\ lead' = FALSE /\ mem' = None /\ UNCHANGED <<s, inc, place, topic, fly, rows, off, rinc, nid, bak, nr, lost>>
Send == /\ lead /\ fly = None /\ mem.pos < Len(s) /\ (ReadCompares => IdAt(mem.pos) = mem.id)
        /\ fly' = [pos |-> mem.pos + 1, id |-> s[mem.pos + 1], inc |-> mem.inc]
        /\ UNCHANGED <<s, inc, place, topic, lead, mem, rows, off, rinc, nid, bak, nr, lost>>
Arrive == /\ fly # None /\ Len(topic) < MaxTopic /\ topic' = Append(topic, fly) /\ fly' = None
          /\ LET own == lead /\ fly.inc = mem.inc /\ fly.pos = mem.pos + 1
             IN /\ mem' = IF own THEN [mem EXCEPT !.pos = fly.pos, !.id = fly.id] ELSE mem
                /\ place' = IF own THEN fly.pos ELSE place
          /\ UNCHANGED <<s, inc, lead, rows, off, rinc, nid, bak, nr, lost>>
\* the projector: one record
Sound == (IF rows = <<>> THEN TRUE ELSE IF Len(rows) > Len(s) THEN FALSE ELSE s[Len(rows)] = rows[Len(rows)]) /\ rinc = inc
Apply ==
  /\ off < Len(topic) /\ Sound
  /\ LET r == topic[off + 1]
         fill == SubSeq(s, Len(rows) + 1, r.pos - 1)      \* a gap is read from the store
     IN
        \/ r.id = None /\ r.inc <= rinc /\ UNCHANGED rows
        \/ r.id # None /\ r.pos <= Len(rows) /\ UNCHANGED rows
        \/ r.id # None /\ r.pos > Len(rows) /\ HasEv(r) /\ rows' = rows \o fill \o <<r.id>>
        \/ r.id # None /\ r.pos > Len(rows) /\ ~HasEv(r) /\ EarlierSkipped /\ r.inc < inc /\ UNCHANGED rows
        \/ r.id # None /\ r.pos > Len(rows) /\ ~HasEv(r) /\ ~ProjectorCompares /\ r.pos - 1 <= Len(s) /\ rows' = rows \o fill \o <<r.id>>
  /\ off' = off + 1 /\ UNCHANGED <<s, inc, place, topic, lead, fly, mem, rinc, nid, bak, nr, lost>>
\* recover: the next incarnation, its marker, the read models by replay
Bad == {topic[i].pos : i \in {j \in DOMAIN topic : Counts(j) /\ ~HasEv(topic[j])}}
Shared == Min({Len(s)} \cup {p - 1 : p \in Bad} \cup {p - 1 : p \in {q \in DOMAIN rows : IF q > Len(s) THEN TRUE ELSE s[q] # rows[q]}})
Recover ==
  /\ Contradicts \/ ~Sound
  /\ Len(topic) < MaxTopic
  /\ LET n == 1 + (IF NumberAboveAll THEN Max(Known) ELSE inc)
         sh == Shared
     IN /\ inc' = n /\ rinc' = n /\ lead' = FALSE /\ mem' = None /\ place' = Min({place, sh})
        /\ topic' = IF MarkerFirst THEN Append(topic, [pos |-> sh, id |-> None, inc |-> n]) ELSE topic
        /\ rows' = s
  /\ UNCHANGED <<s, fly, off, nid, bak, nr, lost>>
Next == Add \/ Backup \/ Restore \/ Lead \/ Ends \/ Send \/ Arrive \/ Apply \/ Recover
Spec == Init /\ [][Next]_vars

\* another consumer: it cuts off at a marker of a higher incarnation, ignores records of
\* an earlier one from then on, and drops what it has
RECURSIVE Fold(_, _, _)
Fold(i, has, n) ==
  IF i > Len(topic) THEN has
  ELSE LET r == topic[i] IN
       IF r.id = None THEN IF r.inc > n THEN Fold(i + 1, SubSeq(has, 1, Min({r.pos, Len(has)})), r.inc) ELSE Fold(i + 1, has, n)
       ELSE IF r.inc < n \/ r.pos <= Len(has) THEN Fold(i + 1, has, n)
       ELSE Fold(i + 1, Append(has, r.id), n)
Histories == lost \cup {s}
\* read models, and what others make of the topic, are of one history of the store, never of two
ModelsOfOne == \E h \in Histories : Prefix(rows, h)
TopicOfOne == \E h \in Histories : Prefix(Fold(1, <<>>, 1), h)
\* with everything published and read, and nothing to recover from, both equal the store
AtEnd == (lead /\ place = Len(s) /\ fly = None /\ ~Contradicts /\ Sound /\ off = Len(topic)) =>
           (Prefix(rows, s) /\ (Len(rows) = Len(s)) /\ Fold(1, <<>>, 1) = s)
\* one `recover` is enough
Recovered == [][Recover => ~Contradicts']_vars
\* as long as nothing has to be recovered from, the projector reads on
NoneBlocked == (~Contradicts /\ Sound /\ off < Len(topic)) => ENABLED Apply
=============================================================================
