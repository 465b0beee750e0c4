"""Common English words, of which prompts of random text are made: in most vocabularies each is one token."""

TEXT = """
able about above across act action age ago agree air all almost along already also although always among amount
animal answer any area arm around art ask away back bad ball bank base beat because bed before behind best better
between big bit black blood blue board body book both box boy bring brother build business buy call car card care
carry case catch cause center century certain chance change child choose church city class clear close cold color
come common community company condition control cost could country course court cover create cross cup current cut
dark data day dead deal death decide deep degree design develop difference different difficult direction distance
do doctor dog door down draw dream drive drop dry due during each early earth east easy eat edge education effect
eight either else end energy enough enter entire even evening event ever every example expect experience explain
eye face fact fall family far farm fast father fear feel feet few field fight figure fill final find fine finger
fire first fish five floor fly follow food foot force foreign form forward found four free friend front full game
garden general get girl give glass go gold good government great green ground group grow guess gun hair half hall
hand happen happy hard have head hear heart heat heavy help here high hill history hit hold home hope horse hospital
hot hotel hour house how huge human hundred idea image important include increase industry inside interest island
issue job join keep kind king know land language large last late laugh law lead learn leave left leg less letter
level life light like line list listen little live local long look lose lot love low machine main make man many
market matter may mean measure meet member middle might mile military million mind minute model modern moment money
month more morning most mother mountain mouth move much music must name nation nature near need never new news next
night nine north note nothing number object ocean offer office often oil old once only open order other paper parent
part party past path pay peace people perhaps period person picture piece place plan plant play point policy poor
position possible power present president price private problem process produce program provide public pull purpose
push put question quick quiet race radio rain raise range rate reach read ready real reason receive record red
remain remember report rest result return rich right rise river road rock role room round rule run safe same sea
season seat second section seem sell send sense serve set seven several shape share ship short should show side sign
simple since single sister sit site six size skill skin sky small social soft soil some song soon sound south space
speak special spring staff stage stand star start state stay step still stone stop store story street strong student
study such summer sun sure surface system table take talk tax teach team tell ten test than thank their then there
thing think third those thought thousand three through time today together too top total town trade train travel
tree trial trip true try turn two type under unit until use usual value very view village visit voice wait walk wall
want war watch water way wear week weight well west what wheel when where which while white who whole why wide wife
wind window winter wish with without woman wonder wood word work world write wrong yard year yellow yes yet young
"""


def common_words() -> tuple[str, ...]:
    return tuple(TEXT.split())
