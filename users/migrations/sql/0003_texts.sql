-- Texts as they are compared: the fold of the search, and the identity of an e-mail address.
--
-- All of it is the same whatever locale the database has, and whoever writes: the columns that are
-- made of it are generated. The question of a search is folded by the same function. What is
-- stored depends on these functions: one that changes needs the columns and the index built again.

-- Small letters, in any script, each character by itself; the result is composed (NFC).
CREATE FUNCTION public.users_lower(words text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    lowered text;
BEGIN
    lowered := lower(words COLLATE "C");
    IF octet_length(words) = char_length(words) THEN
        RETURN lowered;  -- all of it is ASCII
    END IF;
    -- Letters with marks are taken apart first, so that the tables need the plain ones only. The
    -- collation changes ASCII alone here.
    lowered := normalize(lowered, NFD);
    lowered := lower(lowered COLLATE "C");
    -- Latin
    IF lowered ~ '[\u00C6\u00D0\u00D8\u00DE\u0110\u0126\u0141\u014A\u0152\u0166\u018F\u1E9E]' THEN
        lowered := translate(lowered,
            'ÆÐØÞĐĦŁŊŒŦƏẞ',
            'æðøþđħłŋœŧəß');
    END IF;
    -- Greek
    IF lowered ~ '[\u0370\u0372\u0376\u037F\u0391-\u03A1\u03A3-\u03A9\u03CF\u03D8\u03DA\u03DC\u03DE\u03E0\u03F4\u03F7\u03F9-\u03FA\u03FD-\u03FF]' THEN
        lowered := translate(lowered,
            'ͰͲͶͿΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩϏϘϚϜϞϠϴϷϹϺϽϾϿ',
            'ͱͳͷϳαβγδεζηθικλμνξοπρστυφχψωϗϙϛϝϟϡθϸϲϻͻͼͽ');
    END IF;
    -- Cyrillic
    IF lowered ~ '[\u0402\u0404-\u0406\u0408-\u040B\u040F-\u0418\u041A-\u042F\u0490\u0492\u0496\u049A\u04A2\u04AE\u04B0\u04B2\u04BA\u04C0\u04D8\u04E8]' THEN
        lowered := translate(lowered,
            'ЂЄЅІЈЉЊЋЏАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯҐҒҖҚҢҮҰҲҺӀӘӨ',
            'ђєѕіјљњћџабвгдежзиклмнопрстуфхцчшщъыьэюяґғҗқңүұҳһӏәө');
    END IF;
    -- Rare ones, and the other scripts with two cases: Armenian, Georgian, Cherokee, Coptic, …
    IF lowered ~ '[\u0132-\u013F\u0181-\u024E\u03E2-\u03EE\u0460-\u0556\u10A0-\u10CD\u13A0-\u13F5\u1C90-\u1CBF\u1EFA-\u1EFE\u2132-\u2183\u24B6-\u24CF\u2C00-\u2CF2\uA640-\uA69A\uA722-\uA7F5\uFF21-\uFF3A\U00010400-\U00010427\U000104B0-\U000104D3\U00010570-\U00010595\U00010C80-\U00010CB2\U000118A0-\U000118BF\U00016E40-\U00016E5F\U0001E900-\U0001E921]' THEN
        lowered := translate(lowered,
            'ĲĿƁƂƄƆƇƉƊƋƎƐƑƓƔƖƗƘƜƝƟƢƤƦƧƩƬƮƱƲƳƵƷƸƼǄǅǇǈǊǋǤǱǲǶǷȜȠȢȤȺȻȽȾɁɃɄɅɆɈɊɌɎỺỼỾⱠⱢⱣⱤⱧⱩⱫⱭⱮⱯⱰⱲⱵⱾⱿꜢꜤꜦꜨꜪꜬꜮꜲꜴꜶꜸꜺꜼꜾꝀꝂꝄꝆꝈꝊꝌꝎꝐꝒꝔꝖꝘꝚꝜꝞꝠꝢꝤꝦꝨꝪꝬꝮꝹꝻꝽꝾꞀꞂꞄꞆꞋꞍꞐꞒꞖꞘꞚꞜꞞꞠꞢꞤꞦꞨꞪꞫꞬꞭꞮꞰꞱꞲꞳꞴꞶꞸꞺꞼꞾꟀꟂꟄꟅꟆꟇꟉꟐꟖꟘꟵＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺѠѢѤѦѨѪѬѮѰѲѴѸѺѼѾҀҊҌҎҔҘҜҞҠҤҦҨҪҬҴҶҸҼҾӃӅӇӉӋӍӔӠӶӺӼӾԀԂԄԆԈԊԌԎԐԒԔԖԘԚԜԞԠԢԤԦԨԪԬԮꙀꙂꙄꙆꙈꙊꙌꙎꙐꙒꙔꙖꙘꙚꙜꙞꙠꙢꙤꙦꙨꙪꙬꚀꚂꚄꚆꚈꚊꚌꚎꚐꚒꚔꚖꚘꚚϢϤϦϨϪϬϮԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႱႲႳႴႵႶႷႸႹႺႻႼႽႾႿჀჁჂჃჄჅჇჍᎠᎡᎢᎣᎤᎥᎦᎧᎨᎩᎪᎫᎬᎭᎮᎯᎰᎱᎲᎳᎴᎵᎶᎷᎸᎹᎺᎻᎼᎽᎾᎿᏀᏁᏂᏃᏄᏅᏆᏇᏈᏉᏊᏋᏌᏍᏎᏏᏐᏑᏒᏓᏔᏕᏖᏗᏘᏙᏚᏛᏜᏝᏞᏟᏠᏡᏢᏣᏤᏥᏦᏧᏨᏩᏪᏫᏬᏭᏮᏯᏰᏱᏲᏳᏴᏵᲐᲑᲒᲓᲔᲕᲖᲗᲘᲙᲚᲛᲜᲝᲞᲟᲠᲡᲢᲣᲤᲥᲦᲧᲨᲩᲪᲫᲬᲭᲮᲯᲰᲱᲲᲳᲴᲵᲶᲷᲸᲹᲺᲽᲾᲿℲⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩⅪⅫⅬⅭⅮⅯↃⒶⒷⒸⒹⒺⒻⒼⒽⒾⒿⓀⓁⓂⓃⓄⓅⓆⓇⓈⓉⓊⓋⓌⓍⓎⓏⰀⰁⰂⰃⰄⰅⰆⰇⰈⰉⰊⰋⰌⰍⰎⰏⰐⰑⰒⰓⰔⰕⰖⰗⰘⰙⰚⰛⰜⰝⰞⰟⰠⰡⰢⰣⰤⰥⰦⰧⰨⰩⰪⰫⰬⰭⰮⰯⲀⲂⲄⲆⲈⲊⲌⲎⲐⲒⲔⲖⲘⲚⲜⲞⲠⲢⲤⲦⲨⲪⲬⲮⲰⲲⲴⲶⲸⲺⲼⲾⳀⳂⳄⳆⳈⳊⳌⳎⳐⳒⳔⳖⳘⳚⳜⳞⳠⳢⳫⳭⳲ𐐀𐐁𐐂𐐃𐐄𐐅𐐆𐐇𐐈𐐉𐐊𐐋𐐌𐐍𐐎𐐏𐐐𐐑𐐒𐐓𐐔𐐕𐐖𐐗𐐘𐐙𐐚𐐛𐐜𐐝𐐞𐐟𐐠𐐡𐐢𐐣𐐤𐐥𐐦𐐧𐒰𐒱𐒲𐒳𐒴𐒵𐒶𐒷𐒸𐒹𐒺𐒻𐒼𐒽𐒾𐒿𐓀𐓁𐓂𐓃𐓄𐓅𐓆𐓇𐓈𐓉𐓊𐓋𐓌𐓍𐓎𐓏𐓐𐓑𐓒𐓓𐕰𐕱𐕲𐕳𐕴𐕵𐕶𐕷𐕸𐕹𐕺𐕼𐕽𐕾𐕿𐖀𐖁𐖂𐖃𐖄𐖅𐖆𐖇𐖈𐖉𐖊𐖌𐖍𐖎𐖏𐖐𐖑𐖒𐖔𐖕𐲀𐲁𐲂𐲃𐲄𐲅𐲆𐲇𐲈𐲉𐲊𐲋𐲌𐲍𐲎𐲏𐲐𐲑𐲒𐲓𐲔𐲕𐲖𐲗𐲘𐲙𐲚𐲛𐲜𐲝𐲞𐲟𐲠𐲡𐲢𐲣𐲤𐲥𐲦𐲧𐲨𐲩𐲪𐲫𐲬𐲭𐲮𐲯𐲰𐲱𐲲𑢠𑢡𑢢𑢣𑢤𑢥𑢦𑢧𑢨𑢩𑢪𑢫𑢬𑢭𑢮𑢯𑢰𑢱𑢲𑢳𑢴𑢵𑢶𑢷𑢸𑢹𑢺𑢻𑢼𑢽𑢾𑢿𖹀𖹁𖹂𖹃𖹄𖹅𖹆𖹇𖹈𖹉𖹊𖹋𖹌𖹍𖹎𖹏𖹐𖹑𖹒𖹓𖹔𖹕𖹖𖹗𖹘𖹙𖹚𖹛𖹜𖹝𖹞𖹟𞤀𞤁𞤂𞤃𞤄𞤅𞤆𞤇𞤈𞤉𞤊𞤋𞤌𞤍𞤎𞤏𞤐𞤑𞤒𞤓𞤔𞤕𞤖𞤗𞤘𞤙𞤚𞤛𞤜𞤝𞤞𞤟𞤠𞤡',
            'ĳŀɓƃƅɔƈɖɗƌǝɛƒɠɣɩɨƙɯɲɵƣƥʀƨʃƭʈʊʋƴƶʒƹƽǆǆǉǉǌǌǥǳǳƕƿȝƞȣȥⱥȼƚⱦɂƀʉʌɇɉɋɍɏỻỽỿⱡɫᵽɽⱨⱪⱬɑɱɐɒⱳⱶȿɀꜣꜥꜧꜩꜫꜭꜯꜳꜵꜷꜹꜻꜽꜿꝁꝃꝅꝇꝉꝋꝍꝏꝑꝓꝕꝗꝙꝛꝝꝟꝡꝣꝥꝧꝩꝫꝭꝯꝺꝼᵹꝿꞁꞃꞅꞇꞌɥꞑꞓꞗꞙꞛꞝꞟꞡꞣꞥꞧꞩɦɜɡɬɪʞʇʝꭓꞵꞷꞹꞻꞽꞿꟁꟃꞔʂᶎꟈꟊꟑꟗꟙꟶａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚѡѣѥѧѩѫѭѯѱѳѵѹѻѽѿҁҋҍҏҕҙҝҟҡҥҧҩҫҭҵҷҹҽҿӄӆӈӊӌӎӕӡӷӻӽӿԁԃԅԇԉԋԍԏԑԓԕԗԙԛԝԟԡԣԥԧԩԫԭԯꙁꙃꙅꙇꙉꙋꙍꙏꙑꙓꙕꙗꙙꙛꙝꙟꙡꙣꙥꙧꙩꙫꙭꚁꚃꚅꚇꚉꚋꚍꚏꚑꚓꚕꚗꚙꚛϣϥϧϩϫϭϯաբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆⴀⴁⴂⴃⴄⴅⴆⴇⴈⴉⴊⴋⴌⴍⴎⴏⴐⴑⴒⴓⴔⴕⴖⴗⴘⴙⴚⴛⴜⴝⴞⴟⴠⴡⴢⴣⴤⴥⴧⴭꭰꭱꭲꭳꭴꭵꭶꭷꭸꭹꭺꭻꭼꭽꭾꭿꮀꮁꮂꮃꮄꮅꮆꮇꮈꮉꮊꮋꮌꮍꮎꮏꮐꮑꮒꮓꮔꮕꮖꮗꮘꮙꮚꮛꮜꮝꮞꮟꮠꮡꮢꮣꮤꮥꮦꮧꮨꮩꮪꮫꮬꮭꮮꮯꮰꮱꮲꮳꮴꮵꮶꮷꮸꮹꮺꮻꮼꮽꮾꮿᏸᏹᏺᏻᏼᏽაბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰჱჲჳჴჵჶჷჸჹჺჽჾჿⅎⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅺⅻⅼⅽⅾⅿↄⓐⓑⓒⓓⓔⓕⓖⓗⓘⓙⓚⓛⓜⓝⓞⓟⓠⓡⓢⓣⓤⓥⓦⓧⓨⓩⰰⰱⰲⰳⰴⰵⰶⰷⰸⰹⰺⰻⰼⰽⰾⰿⱀⱁⱂⱃⱄⱅⱆⱇⱈⱉⱊⱋⱌⱍⱎⱏⱐⱑⱒⱓⱔⱕⱖⱗⱘⱙⱚⱛⱜⱝⱞⱟⲁⲃⲅⲇⲉⲋⲍⲏⲑⲓⲕⲗⲙⲛⲝⲟⲡⲣⲥⲧⲩⲫⲭⲯⲱⲳⲵⲷⲹⲻⲽⲿⳁⳃⳅⳇⳉⳋⳍⳏⳑⳓⳕⳗⳙⳛⳝⳟⳡⳣⳬⳮⳳ𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷𐐸𐐹𐐺𐐻𐐼𐐽𐐾𐐿𐑀𐑁𐑂𐑃𐑄𐑅𐑆𐑇𐑈𐑉𐑊𐑋𐑌𐑍𐑎𐑏𐓘𐓙𐓚𐓛𐓜𐓝𐓞𐓟𐓠𐓡𐓢𐓣𐓤𐓥𐓦𐓧𐓨𐓩𐓪𐓫𐓬𐓭𐓮𐓯𐓰𐓱𐓲𐓳𐓴𐓵𐓶𐓷𐓸𐓹𐓺𐓻𐖗𐖘𐖙𐖚𐖛𐖜𐖝𐖞𐖟𐖠𐖡𐖣𐖤𐖥𐖦𐖧𐖨𐖩𐖪𐖫𐖬𐖭𐖮𐖯𐖰𐖱𐖳𐖴𐖵𐖶𐖷𐖸𐖹𐖻𐖼𐳀𐳁𐳂𐳃𐳄𐳅𐳆𐳇𐳈𐳉𐳊𐳋𐳌𐳍𐳎𐳏𐳐𐳑𐳒𐳓𐳔𐳕𐳖𐳗𐳘𐳙𐳚𐳛𐳜𐳝𐳞𐳟𐳠𐳡𐳢𐳣𐳤𐳥𐳦𐳧𐳨𐳩𐳪𐳫𐳬𐳭𐳮𐳯𐳰𐳱𐳲𑣀𑣁𑣂𑣃𑣄𑣅𑣆𑣇𑣈𑣉𑣊𑣋𑣌𑣍𑣎𑣏𑣐𑣑𑣒𑣓𑣔𑣕𑣖𑣗𑣘𑣙𑣚𑣛𑣜𑣝𑣞𑣟𖹠𖹡𖹢𖹣𖹤𖹥𖹦𖹧𖹨𖹩𖹪𖹫𖹬𖹭𖹮𖹯𖹰𖹱𖹲𖹳𖹴𖹵𖹶𖹷𖹸𖹹𖹺𖹻𖹼𖹽𖹾𖹿𞤢𞤣𞤤𞤥𞤦𞤧𞤨𞤩𞤪𞤫𞤬𞤭𞤮𞤯𞤰𞤱𞤲𞤳𞤴𞤵𞤶𞤷𞤸𞤹𞤺𞤻𞤼𞤽𞤾𞤿𞥀𞥁𞥂𞥃');
    END IF;
    RETURN normalize(lowered, NFC);
END
$$;

-- A text without what people leave out, or write in two ways: case, accents, letters with strokes
-- and ligatures, apostrophes, dashes, invisible characters. Commas, brackets and quotation marks
-- are spaces, and spaces are single.
CREATE FUNCTION public.users_fold(words text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    folded text := words;
BEGIN
    IF octet_length(words) = char_length(words) THEN
        folded := lower(words COLLATE "C");
    ELSE
        -- NFKD makes a space and an accent of ´.
        folded := regexp_replace(normalize(translate(words, '´', ''), NFKD),
            '[\u0300-\u036F\u0483-\u0487\u0591-\u05BD\u05BF\u05C1-\u05C2\u05C4-\u05C5\u05C7\u0640\u064B-\u065F\u0670\u1AB0-\u1AFF\u1DC0-\u1DFF\u20D0-\u20FF\uFE20-\uFE2F\u0001-\u0008\u000E-\u001F\u007F-\u0084\u0086-\u009F\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890-\u0891\u08E2\u115F-\u1160\u17B4-\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U000110BD\U000110CD\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]',
            '', 'g');
        folded := public.users_lower(folded);
        IF folded ~ '[łøđðħŧıĸŋƀƒɨɉƙƚɵɍʉʋɏƶəǝɛɓɗɠɔςґөىیکة\u0660-\u0669\u06F0-\u06F9\u0966-\u096F\u09E6-\u09EF]' THEN
            folded := translate(folded, 'łøđðħŧıĸŋƀƒɨɉƙƚɵɍʉʋɏƶəǝɛɓɗɠɔςґөىیکة٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९০১২৩৪৫৬৭৮৯',
                'loddhtiknbfijkloruvyzeeebdgoσгоييكه0123456789012345678901234567890123456789');
        END IF;
        folded := replace(replace(replace(replace(folded, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
    END IF;
    folded := regexp_replace(folded, '[''’‘‛ʼʻʹ′`´＇‐‑‒–—―−﹘﹣－⁃-]+', '', 'g');
    folded := regexp_replace(folded,
        '[ \t\n\r\f\v\u0085\u2028\u2029,;"()\[\]{}<>|“”„‟«»‹›،؛、，；]+', ' ', 'g');
    RETURN btrim(folded);
END
$$;

-- What an index of substrings holds: all stretches of three characters. It cuts the text in threes
-- from each of its first three characters on, which is several times faster than piece by piece.
CREATE FUNCTION public.users_trigrams(words text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
BEGIN
    RETURN string_to_array(regexp_replace(words, '(...)', E'\\1\n', 'g'), E'\n')
        || string_to_array(regexp_replace(substr(words, 2), '(...)', E'\\1\n', 'g'), E'\n')
        || string_to_array(regexp_replace(substr(words, 3), '(...)', E'\\1\n', 'g'), E'\n');
END
$$;

-- A label of a domain name as people write it: "bcher-kva" is "bücher" (RFC 3492). What is no
-- Punycode is NULL.
CREATE FUNCTION public.users_from_punycode(label text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    letters text[] := '{}';
    -- Of ASCII letters before the last hyphen.
    plain int := char_length(label) - strpos(reverse(label), '-');
    n int := 128;
    i int := 0;
    bias int := 72;
    at int := 1;
    before int;
    weight bigint;
    k int;
    t int;
    digit int;
    delta int;
    grown bigint;
BEGIN
    IF label ~ '[^a-z0-9-]' OR char_length(label) > 63 THEN
        RETURN NULL;
    END IF;
    IF strpos(label, '-') > 0 THEN
        letters := string_to_array(left(label, plain), NULL);
        at := plain + 2;
    END IF;
    WHILE at <= char_length(label) LOOP
        before := i;
        weight := 1;
        k := 36;
        grown := i;
        LOOP
            IF at > char_length(label) THEN
                RETURN NULL;
            END IF;
            digit := strpos('abcdefghijklmnopqrstuvwxyz0123456789', substr(label, at, 1)) - 1;
            at := at + 1;
            grown := grown + digit * weight;
            IF digit < 0 OR grown > 100000000 THEN
                RETURN NULL;
            END IF;
            t := CASE WHEN k <= bias THEN 1 WHEN k >= bias + 26 THEN 26 ELSE k - bias END;
            EXIT WHEN digit < t;
            weight := weight * (36 - t);
            k := k + 36;
            IF weight > 100000000 THEN
                RETURN NULL;
            END IF;
        END LOOP;
        i := grown;
        delta := CASE WHEN before = 0 THEN i / 700 ELSE (i - before) / 2 END;
        delta := delta + delta / (cardinality(letters) + 1);
        k := 0;
        WHILE delta > 455 LOOP
            delta := delta / 35;
            k := k + 36;
        END LOOP;
        bias := k + 36 * delta / (delta + 38);
        n := n + i / (cardinality(letters) + 1);
        i := i % (cardinality(letters) + 1);
        IF n > 1114111 OR n BETWEEN 55296 AND 57343 THEN
            RETURN NULL;
        END IF;
        letters := letters[:i] || chr(n) || letters[i + 1:];
        i := i + 1;
    END LOOP;
    RETURN array_to_string(letters, '');
END
$$;

-- What is the same for all spellings of one mailbox: nothing unseen, composed, small letters, the
-- domain as people write it, not in the letters of the domain name system.
CREATE FUNCTION public.users_email_identity(email text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    seen text := btrim(email);
    place int;  -- of the last @
    mailbox text;
    domain text;
BEGIN
    IF octet_length(email) <> char_length(email) OR email ~ '[\u0001-\u001F\u007F]' THEN
        seen := btrim(regexp_replace(email,
            '[\u0001-\u001F\u007F-\u009F\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890-\u0891\u08E2\u115F-\u1160\u17B4-\u17B5\u180B-\u180F\u200B-\u200F\u2028-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U000110BD\U000110CD\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]', '', 'g'));
    END IF;
    place := char_length(seen) - strpos(reverse(seen), '@') + 1;
    mailbox := public.users_lower(left(seen, place - 1));
    IF strpos(seen, '@') = 0 THEN
        RETURN public.users_lower(seen);
    END IF;
    IF mailbox ~ '^"[a-z0-9!#$%&''*+/=?^_`{|}~-]+([.][a-z0-9!#$%&''*+/=?^_`{|}~-]+)*"$' THEN
        mailbox := btrim(mailbox, '"');  -- quoted, and need not be
    END IF;
    domain := lower(substr(seen, place + 1) COLLATE "C");
    IF octet_length(domain) <> char_length(domain) THEN
        domain := public.users_lower(normalize(translate(substr(seen, place + 1), '。．｡', '...'), NFKC));
    END IF;
    IF strpos(domain, 'xn--') > 0 THEN
        domain := (
            SELECT string_agg(
                CASE WHEN label LIKE 'xn--%'
                    THEN coalesce(public.users_lower(normalize(public.users_from_punycode(substr(label, 5)), NFKC)), label)
                    ELSE label END,
                '.' ORDER BY position)
            FROM unnest(string_to_array(domain, '.')) WITH ORDINALITY AS labels (label, position)
        );
        domain := regexp_replace(domain,
            '[\u0001-\u001F\u007F-\u009F\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890-\u0891\u08E2\u115F-\u1160\u17B4-\u17B5\u180B-\u180F\u200B-\u200F\u2028-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U000110BD\U000110CD\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]', '', 'g');
    END IF;
    RETURN mailbox || '@' || rtrim(domain, '.');
END
$$;

-- What a user is found by. Numbers are in it as they are written and without what groups them.
CREATE FUNCTION public.users_search_text(email text, phone text, VARIADIC others text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    found text := public.users_fold(email || ' ' || phone || ' ' || array_to_string(others, ' '));
    mailbox text := public.users_fold(public.users_email_identity(email));
    compact text;
    number text;
BEGIN
    IF strpos(found, mailbox) = 0 THEN
        found := found || ' ' || mailbox;
    END IF;
    -- The first of the others are numbers of companies, and postal codes.
    FOREACH number IN ARRAY phone || others[:6] LOOP
        IF number ~ '[ +./\:#_*]' THEN
            compact := translate(public.users_fold(number), ' +./\:#_*', '');
            IF strpos(found, compact) = 0 THEN
                found := found || ' ' || compact;
            END IF;
        END IF;
    END LOOP;
    RETURN found;
END
$$;
